"""Tests that try to break the package: `make reliability` runs them all; docs/reliability.md says what holds."""
