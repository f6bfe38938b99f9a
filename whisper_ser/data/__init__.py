"""Corpora, splits, the audit of splits, and statistics."""
