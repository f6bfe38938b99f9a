"""A table of results, for a page and for a CSV file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]
PUBLISHED = "published"
"""The `rule` of a row whose figures were published elsewhere."""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its CSV file, without the ending.
        title: above it on the page.
        rows: figures in percent, `None` where there is none; every row has the same keys.
        columns: the header of each column on the page, and the text of a row below it.
    """

    name: str
    title: str
    rows: list[Row]
    columns: Columns

    def markdown(self) -> str:
        """Returns the table as GitHub reads it."""
        heads = list(self.columns)
        lines = [heads, ["---"] * len(heads)]
        lines += [[text(row).replace("|", "\\|") for text in self.columns.values()] for row in self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def frame(self, stamp: Mapping[str, Any]) -> pandas.DataFrame:
        """Returns the rows as the CSV has them, each with its protocol; that of published rows is not ours."""
        blank = dict.fromkeys(stamp, "")
        return pandas.DataFrame([{**row, **(blank if row.get("rule") == PUBLISHED else stamp)} for row in self.rows])
