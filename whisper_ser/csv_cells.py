"""Cells of CSV files that a spreadsheet will open."""

from typing import Any

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def harmless(cell: Any) -> Any:
    """Returns a cell; text that a spreadsheet would run as a formula is preceded by an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_SIGNS) else cell
