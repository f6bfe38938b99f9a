"""The workshop that trains, measures and publishes speech emotion recognition models; never copied to the Hub."""

__version__ = "0.1.0"
