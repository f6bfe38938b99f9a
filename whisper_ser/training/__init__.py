"""Training: settings, stored encoder states, and one or many runs."""
