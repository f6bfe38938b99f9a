"""How "best" is chosen: by validation figures within each fold, or, for comparison with the paper, on the test folds.

A setting competes only if all its folds and seeds are there, so that nothing is averaged over fewer folds. Ties go to
the lower layer, which costs less.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from whisper_ser.paper.results import Cell, Run, Setting, Sweep, spreads

NESTED, ON_TEST = "nested", "best on test"

RULES = {
    NESTED: "within each fold (and seed) the setting with the highest UA on that fold's validation speakers; its test "
    "figures are averaged. No test part chooses its own layer.",
    ON_TEST: "the setting with the highest mean UA on the test folds themselves. This flatters: the figures that are "
    "reported have chosen. It is here for comparison with the paper only.",
}


@dataclass(frozen=True)
class Choice:
    """The cell that a rule takes for every seed and fold. `nested` may take another setting in each."""

    rule: str
    cells: dict[Run, Cell]

    @property
    def layers(self) -> Counter[int]:
        """How many runs read each layer."""
        return Counter(cell["layer"] for cell in self.cells.values())

    @property
    def poolings(self) -> Counter[str]:
        """How many runs pool in each way."""
        return Counter(cell["pooling"] for cell in self.cells.values())

    @property
    def deepest(self) -> int:
        """The highest layer that any run reads."""
        return max(self.layers)


Rule = Callable[[Sweep, list[Setting]], Choice | None]


def nested(sweep: Sweep, settings: list[Setting]) -> Choice | None:
    """Returns in each run the cell of highest validation UA, `None` if nothing is complete or has no validation."""
    candidates = sorted(sweep.complete(settings), key=lambda setting: setting.layer)
    cells = [sweep.cells[setting] for setting in candidates]
    if not cells or not has_validation(sweep):
        return None
    # max takes the first of equals.
    chosen = {run: max((of[run] for of in cells), key=lambda cell: cell["validation"]["ua"]) for run in sweep.runs}
    return Choice(NESTED, chosen)


def has_validation(sweep: Sweep) -> bool:
    """Says whether every cell has validation figures, without which `nested` cannot choose."""
    return all(cell.get("validation") is not None for runs in sweep.cells.values() for cell in runs.values())


def best_on_test(sweep: Sweep, settings: list[Setting]) -> Choice | None:
    """Returns the cells of the setting with the highest mean test UA, `None` if nothing is complete."""
    candidates = sorted(sweep.complete(settings), key=lambda setting: setting.layer)
    if not candidates:
        return None
    best = max(candidates, key=lambda setting: spreads(sweep.cells[setting])["ua"].mean)
    return Choice(ON_TEST, {run: sweep.cells[best][run] for run in sweep.runs})


def choose_setting(sweep: Sweep, settings: list[Setting]) -> Choice | None:
    """Returns `nested` where it can be had, else `best_on_test`."""
    return nested(sweep, settings) or best_on_test(sweep, settings)
