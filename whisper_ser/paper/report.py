"""The report of a sweep: one page, with its tables and figures beside it as PNG and CSV."""

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.errors import WhisperSerError
from whisper_ser.io import escape_csv_formula, replacing
from whisper_ser.paper import figures as sweep_figures
from whisper_ser.paper import published as paper
from whisper_ser.paper.cost import SECONDS
from whisper_ser.paper.sweep import NESTED, ON_TEST, RULES, Sweep, read_sweep
from whisper_ser.paper.tables import Table, all_layers, best_layers, prior_work
from whisper_ser.report.protocol import cautions, figure_line, protocol_line, speaker_overlap, stamp

REPORT = "report"
PAGE = "README.md"
TITLE = "# Sweep of encoder layers and poolings on "


class ReportError(WhisperSerError, ValueError):
    """A place where no report can be written."""


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


def write_sweep_report(folder: Path, folders: Sequence[Path]) -> Path:
    """Writes `folder/report/` with `README.md`, tables and figures, whole or not at all; returns the page's path.

    Args:
        folder: the sweep's output.
        folders: of the cross-validation of each encoder, layer and pooling.

    Raises:
        ReportError: there is a folder `report` that is not ours.
        DamagedFileError, ResultError: a result was changed, or is of an earlier version.
    """
    target = Path(folder) / REPORT
    _check_replaceable(target)
    sweep = read_sweep(folders)
    tables = {
        "best": best_layers(sweep),
        "prior": [prior_work(sweep)],
        "layers": [all_layers(sweep, encoder) for encoder in sweep.encoders],
    }
    with replacing(target) as work:
        work.mkdir()
        for table in [table for group in tables.values() for table in group]:
            _write_csv(table.frame(stamp(sweep.about)), work / f"{table.name}.csv")
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
    _write_csv(frame.assign(**stamp(sweep.about)), work / f"{figure.name}.csv")
    figure.draw(frame, figure_line(sweep.about), work / f"{figure.name}.png")
    return True


def _write_csv(frame: pandas.DataFrame, path: Path) -> None:
    frame.rename(columns=escape_csv_formula).map(escape_csv_formula).to_csv(path, index=False, lineterminator="\n")


def _page(sweep: Sweep, tables: dict[str, list[Table]], figures: list[str]) -> str:
    about, corpus = sweep.about, sweep.about.corpus.name
    names = [table.name for group in tables.values() for table in group]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # A bar inside a cell of a table ends the cell.
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|")
    template = resources.files(__package__).joinpath("report.md.jinja").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        title=TITLE + corpus,
        result=about,
        model=next(iter(sweep.models.values())),
        model_line=model_line(sweep.models),
        tables=tables,
        figures=figures,
        cautions=cautions(about),
        protocol_line=protocol_line(about),
        overlap=speaker_overlap(about.audit),
        rules=RULES if sweep.has_validation else {ON_TEST: RULES[ON_TEST]},
        chosen_by=NESTED if sweep.has_validation else ON_TEST,
        unswept=_unswept(sweep),
        in_paper=corpus in paper.CLASSES,
        compared=[encoder for encoder in sweep.encoders if paper.whisper_size(encoder)],
        departures=paper.departures(sweep),
        oddities=paper.ODDITIES.get(corpus),
        prior=paper.prior_work(corpus),
        followed=sweep_figures.followed_part(sweep),
        seconds=SECONDS,
        files=sorted([f"{name}.csv" for name in names] + [f"{n}.{end}" for n in figures for end in ("csv", "png")]),
    )
    return text.rstrip() + "\n"


def model_line(models: dict[str, WhisperSerConfig]) -> str:
    """Returns what each pooling was trained with: heads, and dropouts as shares of input, pooling and classifier."""
    return "; ".join(
        pooling
        + (f" {config.num_pooling_heads} x {config.pooling_head_dim}" if pooling in paper.SCALED else "")
        + f", dropout {config.input_dropout:g} / {config.pooling_dropout:g} / {config.classifier_dropout:g}"
        for pooling, config in models.items()
    )


def _unswept(sweep: Sweep) -> list[str]:
    """Returns a line for each encoder of which some layers were not swept."""
    lines = []
    for encoder in sweep.encoders:
        settings = sweep.settings(encoder)
        layers = range(1, sweep.config(settings[0]).encoder_config.encoder_layers + 1)
        if absent := sorted({*layers} - {setting.layer for setting in settings}):
            lines.append(f"{encoder}: layer {', '.join(map(str, absent))}")
    return lines
