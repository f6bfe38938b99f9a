"""Use of trained models: predictions for files, timelines, streams, plots."""
