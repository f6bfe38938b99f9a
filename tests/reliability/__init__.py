"""Tests that try to break the package: `make reliability` runs all of them, and docs/reliability.md says what holds."""
