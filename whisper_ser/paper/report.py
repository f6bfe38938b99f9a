"""The report of a sweep: one page, with its tables and figures beside it as PNG and CSV."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas

from whisper_ser.io import escape_csv_formula, replacing
from whisper_ser.paper import figures as sweep_figures
from whisper_ser.paper import published as paper
from whisper_ser.paper.choice import NESTED, ON_TEST, RULES, has_validation
from whisper_ser.paper.departures import departures, model_line
from whisper_ser.paper.latency import SECONDS
from whisper_ser.paper.results import ReportError, Sweep, read_sweep
from whisper_ser.paper.tables import MeasureLatency, Table, all_layers, best_layers, prior_work
from whisper_ser.report.protocol import cautions, figure_line, protocol_line, speaker_overlap, stamp

REPORT = "report"
PAGE = "README.md"
TITLE = "# Sweep of encoder layers and poolings on "


class Figure(NamedTuple):
    """A figure: name of its files, what it shows as a table, and how it is drawn from that."""

    name: str
    data: Callable[[Sweep], pandas.DataFrame]
    draw: Callable[[pandas.DataFrame, str, Path], None]


FIGURES = (
    Figure("fig2_recall", sweep_figures.recall_by_class, sweep_figures.draw_recall),
    Figure("fig3_confusion", sweep_figures.confusion, sweep_figures.draw_confusion),
    Figure("fig4_learning_curves", sweep_figures.learning_curves, sweep_figures.draw_learning_curves),
    Figure("fig5_layers", sweep_figures.metric_by_layer, sweep_figures.draw_metric_by_layer),
)


def write_sweep_report(folder: Path, results: dict[str, Any], measure: MeasureLatency | None = None) -> Path:
    """Writes `folder/report/` with `README.md`, tables and figures, whole or not at all; returns the page's path.

    Args:
        folder: the sweep's output. The predictions that `results` names there give the intervals; where they are
            missing there are none.
        results: the content of `results.json`.
        measure: measures the latency of a model, as `latency.measure_latency`; left out, the column stays empty.

    Raises:
        ReportError: no finished cell, cells that are not of the sweep, or a folder `report` that is none.
    """
    sweep, target = read_sweep(results), Path(folder) / REPORT
    _check_replaceable(target)
    tables = {
        "best": best_layers(sweep, Path(folder)),
        "prior": [prior_work(sweep, Path(folder), measure)],
        "layers": [all_layers(sweep, encoder) for encoder in sweep.encoders],
    }
    marks = stamp(results)
    with replacing(target) as work:
        work.mkdir()
        for table in [table for group in tables.values() for table in group]:
            _write_csv(table.frame(marks), work / f"{table.name}.csv")
        figures = [figure.name for figure in FIGURES if _write_figure(figure, sweep, work)]
        (work / PAGE).write_text(_page(sweep, tables, figures), encoding="utf-8")
    return target / PAGE


def _check_replaceable(target: Path) -> None:
    page = target / PAGE
    ours = page.is_file() and page.read_text(encoding="utf-8").startswith(TITLE)
    if target.exists() and not ours and not (target.is_dir() and not any(target.iterdir())):
        raise ReportError(f"{target} exists and is no report of a sweep: move it away.")


def _write_figure(figure: Figure, sweep: Sweep, work: Path) -> bool:
    """Writes PNG and CSV; says whether there was anything to show."""
    frame = figure.data(sweep)
    if frame.empty:
        return False
    _write_csv(frame.assign(**stamp(sweep.results)), work / f"{figure.name}.csv")
    figure.draw(frame, figure_line(sweep.results), work / f"{figure.name}.png")
    return True


def _write_csv(frame: pandas.DataFrame, path: Path) -> None:
    frame.rename(columns=escape_csv_formula).map(escape_csv_formula).to_csv(path, index=False, lineterminator="\n")


def _page(sweep: Sweep, tables: dict[str, list[Table]], figures: list[str]) -> str:
    results, corpus = sweep.results, sweep.results["corpus"]["name"]
    names = [table.name for group in tables.values() for table in group]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # A bar inside a cell of a table ends the cell.
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|")
    template = resources.files(__package__).joinpath("report.md.jinja").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        title=TITLE + corpus,
        results=results,
        model=next(iter(results["models"].values())),
        model_line=model_line(results),
        tables=tables,
        figures=figures,
        cautions=cautions(results),
        protocol_line=protocol_line(results),
        overlap=speaker_overlap(results["audit"]),
        rules=RULES if has_validation(sweep) else {ON_TEST: RULES[ON_TEST]},
        chosen_by=NESTED if has_validation(sweep) else ON_TEST,
        missing=_missing(sweep),
        unswept=_unswept(sweep),
        runs=len(sweep.runs),
        in_paper=corpus in paper.CLASSES,
        compared=[encoder for encoder in sweep.encoders if paper.whisper_size(encoder)],
        departures=departures(results),
        oddities=paper.oddities_of_best_layer(corpus),
        prior=paper.prior_work(corpus),
        without=[encoder for encoder in sweep.encoders if not sweep.complete(sweep.settings(encoder))],
        followed=sweep_figures.followed_part(sweep),
        seconds=SECONDS,
        devices=sorted({row["device"] for row in tables["prior"][0].rows if row["device"]}),
        files=sorted([f"{name}.csv" for name in names] + [f"{n}.{end}" for n in figures for end in ("csv", "png")]),
    )
    return text.rstrip() + "\n"


def _missing(sweep: Sweep) -> list[str]:
    """Returns a line for each setting that lacks runs."""
    lines = []
    for setting, runs in sweep.missing().items():
        names = ", ".join(f"fold {fold} (seed {seed})" for seed, fold in runs[:6])
        more = f" and {len(runs) - 6} more" if len(runs) > 6 else ""
        lines.append(f"{setting.encoder}, layer {setting.layer}, {setting.pooling}: {names}{more}")
    return lines


def _unswept(sweep: Sweep) -> list[str]:
    """Returns a line for each encoder of which some layers have no cell at all."""
    lines = []
    for encoder in sweep.encoders:
        absent = sorted({*range(1, sweep.config(encoder)["encoder_layers"] + 1)} - {*sweep.layers(encoder)})
        if absent:
            lines.append(f"{encoder}: no cell of layer {', '.join(map(str, absent))}")
    return lines
