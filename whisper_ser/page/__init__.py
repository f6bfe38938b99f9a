"""What the page `app.py` stands on: its models, recordings within limits, examples, and a guard before the server."""
