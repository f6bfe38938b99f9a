"""A table of results, for a page and for a CSV file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas

Row = dict[str, Any]
Columns = dict[str, str | Callable[[Row], str]]
PUBLISHED = "published"
"""The `rule` of a row whose figures were published elsewhere."""


class Mean(NamedTuple):
    """A figure in percent, with its standard deviations over folds and over seeds where there are any."""

    mean: float
    std: float | None = None
    seed_std: float | None = None

    def text(self, digits: int) -> str:
        """Returns `70.0 ± 10.0`."""
        return f"{self.mean:.{digits}f}" + ("" if self.std is None else f" ± {self.std:.{digits}f}")


class Bounds(NamedTuple):
    """A figure in percent, of all utterances pooled, with the bounds of its interval."""

    pooled: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """Returns `62.5 [50.0, 75.0]`."""
        return f"{self.pooled:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def percent(share: float) -> float:
    """Returns a fraction in percent, as CSV files have it."""
    return round(100 * float(share), 4)


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its CSV file, without the ending.
        title: above it on the page.
        rows: values by name; `Mean` and `Bounds` are several columns of the CSV.
        columns: the header of each column on the page, and the name of its value or the text of a row below it.
        digits: of figures on the page, behind the point.
    """

    name: str
    title: str
    rows: list[Row]
    columns: Columns
    digits: int = 2

    def markdown(self) -> str:
        """Returns the table as GitHub reads it, with `-` where there is no value."""
        lines = [list(self.columns), ["---"] * len(self.columns)]
        lines += [[self._text(row, column) for column in self.columns.values()] for row in self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def _text(self, row: Row, column: str | Callable[[Row], str]) -> str:
        value = row.get(column) if isinstance(column, str) else column(row)
        text = value.text(self.digits) if isinstance(value, (Mean, Bounds)) else "-" if value is None else str(value)
        return text.replace("|", "\\|")

    def frame(self, stamp: Mapping[str, Any]) -> pandas.DataFrame:
        """Returns the rows as the CSV has them, each with its protocol; that of published rows is not ours."""
        blank = dict.fromkeys(stamp, "")
        stamps = [blank if row.get("rule") == PUBLISHED else stamp for row in self.rows]
        return pandas.DataFrame([{**_flat(row), **of} for row, of in zip(self.rows, stamps, strict=True)])


def _flat(row: Row) -> Row:
    """Returns a row whose figures are plain numbers, such as `ua`, `ua_std` and `ua_low`."""
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, Mean):
            flat |= {name: value.mean, f"{name}_std": value.std, f"{name}_seed_std": value.seed_std}
        elif isinstance(value, Bounds):
            name = name.removesuffix("_interval")
            flat |= {f"{name}_{end}": bound for end, bound in value._asdict().items()}
        else:
            flat[name] = value
    return flat
