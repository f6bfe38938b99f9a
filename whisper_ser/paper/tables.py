"""The tables of a sweep: figures for CSV, and the same for people."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whisper_ser.paper import published as paper
from whisper_ser.paper.cost import SECONDS, Cost, published_cost, whisper_cost
from whisper_ser.paper.sweep import METRICS, Cell, Choice, Rule, Sweep, best_on_test, means, nested
from whisper_ser.report.tables import PUBLISHED, Bounds, Columns, Mean, Row, Table, percent


def best_layers(sweep: Sweep) -> list[Table]:
    """Returns Table 1 by each rule: `nested` only where there are validation figures."""
    rules: list[tuple[Rule, str, str]] = [
        (best_on_test, "table1_best_on_test", "Table 1b. Best layer, chosen on the test folds: flattering"),
    ]
    if sweep.has_validation:
        title = "Table 1a. Best layer, chosen on validation speakers within each fold"
        rules.insert(0, (nested, "table1_nested", title))
    return [_best_layer_table(sweep, rule, name, title) for rule, name, title in rules]


def _best_layer_table(sweep: Sweep, rule: Rule, name: str, title: str) -> Table:
    rows = [
        {
            "encoder": encoder,
            "pooling": pooling,
            "layer": counts(choice.layers),
            **_beside(choice.cells, paper.best_layer(_corpus(sweep), encoder, pooling)),
            **_intervals(sweep, choice.cells),
        }
        for encoder in sweep.encoders
        for pooling in sweep.models
        if (choice := rule(sweep, sweep.settings(encoder, pooling)))
    ]
    layer = "layer (runs)" if rule is nested else "layer"
    columns: Columns = {"encoder": "encoder", "pooling": "pooling", layer: "layer", **_figure_columns(rows)}
    return Table(name, title, rows, {**columns, "UA, all utterances [95%]": "ua_interval"})


def all_layers(sweep: Sweep, encoder: str) -> Table:
    """Returns Table 3 or 4 of one encoder: every layer and pooling."""
    settings = sweep.settings(encoder)
    rows = [
        {
            **setting._asdict(),
            **_beside(sweep.cells(setting), paper.one_layer(_corpus(sweep), encoder, setting.pooling, setting.layer)),
        }
        for setting in settings
    ]
    title = f"{encoder}, {sweep.config(settings[0]).encoder_config.encoder_layers} layers"
    columns: Columns = {"pooling": "pooling", "layer": "layer", **_figure_columns(rows)}
    return Table(f"table3-4_{re.sub(r'[^A-Za-z0-9._-]', '_', encoder)}", title, rows, columns)


def prior_work(sweep: Sweep) -> Table:
    """Returns Table 2: what the paper quotes for this corpus, the paper's own row, and ours, with their cost."""
    rows = [_published_row(_corpus(sweep), result) for result in paper.prior_work(_corpus(sweep))]
    for encoder in sweep.encoders:
        for rule in (nested, best_on_test):
            if choice := rule(sweep, sweep.settings(encoder)):
                rows.append(_own_row(sweep, encoder, choice))
    columns: Columns = {
        "model": "model",
        "layer (runs)": "layer",
        "pooling (runs)": "pooling",
        "source": "source",
        "WA": "wa",
        "UA": "ua",
        "UA, all utterances [95%]": "ua_interval",
        "encoder parameters": lambda row: f"{row['encoder_parameters'] / 1e6:.1f} M",
        "operations a second": lambda row: f"{row['macs_per_second'] / 1e9:.2f} G",
    }
    return Table("table2", "Table 2. Prior work, and what it costs", rows, columns)


def counts(values: Mapping[Any, int]) -> str:
    """Returns `3` where all runs agree, else `3 (8), 4 (2)` with the number of runs of each, ascending."""
    if len(values) == 1:
        return str(next(iter(values)))
    return ", ".join(f"{value} ({values[value]})" for value in sorted(values))


def _published_row(corpus: str, result: paper.PriorResult) -> Row:
    layer = paper.OWN_LAYER[corpus] if result.source == paper.OWN_SOURCE else None
    return {
        "model": result.encoder,
        "layer": "all" if layer is None else str(layer),
        "pooling": "-",
        "source": result.source,
        "rule": PUBLISHED,
        "wa": Mean(result.wa),
        "ua": Mean(result.ua),
        **_costs(published_cost(result.encoder, layer)),
    }


def _own_row(sweep: Sweep, encoder: str, choice: Choice) -> Row:
    window, config, ours = sweep.about.model.pad_to_seconds, sweep.config(choice.deepest), means(choice.cells)
    whisper = config.encoder_config.to_dict()
    return {
        "model": encoder,
        "layer": counts(choice.layers),
        "pooling": counts(choice.poolings),
        "source": f"this sweep, {choice.rule}",
        "rule": choice.rule,
        "wa": ours["wa"],
        "ua": ours["ua"],
        **_intervals(sweep, choice.cells),
        **_costs(whisper_cost(whisper, choice.deepest.layer, SECONDS, config.chunk_seconds, window)),
    }


def _costs(cost: Cost) -> Row:
    return {"encoder_parameters": cost.parameters, "macs_per_second": round(cost.macs_per_second)}


def _beside(cells: Sequence[Cell], published: Mapping[str, Mean]) -> Row:
    """Returns our figures, the paper's, and the difference in points, `None` where the paper has none."""
    row: Row = {}
    for metric, ours in means(cells).items():
        figure = published.get(metric)
        row |= {metric: ours, f"paper_{metric}": figure}
        row[f"{metric}_difference"] = round(ours.mean - figure.mean, 4) if figure else None
    return row


def _intervals(sweep: Sweep, cells: Sequence[Cell]) -> Row:
    intervals = sweep.intervals(cells)
    if intervals is None:
        return {}
    return {
        f"{metric}_interval": Bounds(*map(percent, (of.value, of.low, of.high)))
        for metric, of in (("wa", intervals.wa), ("ua", intervals.ua))
    }


def _corpus(sweep: Sweep) -> str:
    return sweep.about.corpus.name


def _figure_columns(rows: list[Row]) -> Columns:
    """Returns the columns of WA, UA and F1, with the paper's where it has any of them."""
    columns: Columns = {}
    for metric in METRICS:
        columns[metric.upper()] = metric
        if any(row[f"paper_{metric}"] for row in rows):
            columns[f"paper {metric.upper()}"] = f"paper_{metric}"
            columns[f"difference {metric.upper()}"] = _difference(metric)
    if any(row["ua"].seed_std is not None for row in rows):
        columns["UA, seeds ±"] = lambda row: f"{row['ua'].seed_std:.2f}"
    return columns


def _difference(metric: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        difference = row[f"{metric}_difference"]
        # Rounded first: a difference of nothing has no sign.
        return "-" if difference is None else f"{round(difference, 2) + 0.0:+.2f}".replace("+0.00", "0.00")

    return text
