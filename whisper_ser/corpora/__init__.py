"""Corpora: a `datasets.Dataset` with `path`, `emotion` (a `ClassLabel`) and `speaker` (text) for every utterance."""
