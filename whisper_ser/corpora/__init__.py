"""Corpora, each read into the one form that `dataset.py` describes."""
