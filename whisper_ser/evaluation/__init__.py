"""Metrics, calibration, and intervals over speakers."""
