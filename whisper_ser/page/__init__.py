"""The Gradio page: models, recordings, charts, examples, and a guard before the server."""
