"""Corpora, their splits, and what the parts of a split share."""
