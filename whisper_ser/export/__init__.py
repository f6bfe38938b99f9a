"""Models for runtimes other than PyTorch: the graph's parts, its file, and what runs it without torch."""
