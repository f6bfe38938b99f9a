"""The tables and figures of the paper (arXiv 2602.06000), from the results of a sweep."""
