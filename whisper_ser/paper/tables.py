"""The tables of a sweep: figures for CSV, and the same for people."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whisper_ser.paper import published as paper
from whisper_ser.paper.cost import SECONDS, Cost, published_cost, whisper_cost
from whisper_ser.paper.sweep import Cell, Choice, Rule, Setting, Spread, Sweep, best_on_test, nested, spreads
from whisper_ser.report.tables import PUBLISHED, Columns, Row, Table

METRICS = ("wa", "ua", "f1")


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
        _best_layer_row(sweep, encoder, pooling, choice)
        for encoder in sweep.encoders
        for pooling in sweep.models
        if (choice := rule(sweep, sweep.settings(encoder, pooling)))
    ]
    columns: Columns = {"encoder": _text("encoder"), "pooling": _text("pooling")}
    columns["layer (runs)" if rule is nested else "layer"] = _text("layer")
    columns |= {**_figure_columns(rows), "UA, all utterances [95%]": _interval}
    return Table(name, title, rows, columns)


def all_layers(sweep: Sweep, encoder: str) -> Table:
    """Returns Table 3 or 4 of one encoder: every layer and pooling."""
    rows = [_layer_row(sweep, setting) for setting in sweep.settings(encoder)]
    columns: Columns = {"pooling": _text("pooling"), "layer": _text("layer"), **_figure_columns(rows)}
    title = f"{encoder}, {sweep.config(sweep.settings(encoder)[0]).encoder_config.encoder_layers} layers"
    return Table(f"table3-4_{re.sub(r'[^A-Za-z0-9._-]', '_', encoder)}", title, rows, columns)


def prior_work(sweep: Sweep) -> Table:
    """Returns Table 2: what the paper quotes for this corpus, the paper's own row, and ours, with their cost."""
    rows = [_published_row(_corpus(sweep), result) for result in paper.prior_work(_corpus(sweep))]
    for encoder in sweep.encoders:
        for rule in (nested, best_on_test):
            if choice := rule(sweep, sweep.settings(encoder)):
                rows.append(_own_row(sweep, encoder, choice))
    columns: Columns = {
        "model": _text("model"),
        "layer (runs)": _text("layer"),
        "pooling (runs)": _text("pooling"),
        "source": _text("source"),
        "WA": _figure("wa"),
        "UA": _figure("ua"),
        "UA, all utterances [95%]": _interval,
        "encoder parameters": lambda row: f"{row['encoder_parameters'] / 1e6:.1f} M",
        "operations a second": lambda row: f"{row['macs_per_second'] / 1e9:.2f} G",
    }
    return Table("table2", "Table 2. Prior work, and what it costs", rows, columns)


def counts(values: Mapping[Any, int]) -> str:
    """Returns `3` where all runs agree, else `3 (8), 4 (2)` with the number of runs of each, ascending."""
    if len(values) == 1:
        return str(next(iter(values)))
    return ", ".join(f"{value} ({values[value]})" for value in sorted(values))


def _best_layer_row(sweep: Sweep, encoder: str, pooling: str, choice: Choice) -> Row:
    return {
        "encoder": encoder,
        "pooling": pooling,
        "layer": counts(choice.layers),
        **_beside(spreads(choice.cells), paper.best_layer(_corpus(sweep), encoder, pooling)),
        **_bounds(sweep, choice.cells),
    }


def _layer_row(sweep: Sweep, setting: Setting) -> Row:
    published = paper.one_layer(_corpus(sweep), setting.encoder, setting.pooling, setting.layer)
    return {**setting._asdict(), **_beside(spreads(sweep.cells(setting)), published)}


def _published_row(corpus: str, result: paper.PriorResult) -> Row:
    layer = paper.OWN_LAYER[corpus] if result.source == paper.OWN_SOURCE else None
    return {
        "model": result.encoder,
        "layer": "all" if layer is None else str(layer),
        "pooling": "-",
        "source": result.source,
        "rule": PUBLISHED,
        **dict.fromkeys([f"{metric}{suffix}" for metric in ("wa", "ua") for suffix in ("", "_std", "_seed_std")]),
        "wa": result.wa,
        "ua": result.ua,
        **_no_bounds(),
        **_costs(published_cost(result.encoder, layer)),
    }


def _own_row(sweep: Sweep, encoder: str, choice: Choice) -> Row:
    window, config, of_choice = sweep.about.model.pad_to_seconds, sweep.config(choice.deepest), spreads(choice.cells)
    whisper = config.encoder_config.to_dict()
    return {
        "model": encoder,
        "layer": counts(choice.layers),
        "pooling": counts(choice.poolings),
        "source": f"this sweep, {choice.rule}",
        "rule": choice.rule,
        **_ours({metric: of_choice[metric] for metric in ("wa", "ua")}),
        **_bounds(sweep, choice.cells),
        **_costs(whisper_cost(whisper, choice.deepest.layer, SECONDS, config.chunk_seconds, window)),
    }


def _costs(cost: Cost) -> Row:
    return {"encoder_parameters": cost.parameters, "macs_per_second": round(cost.macs_per_second)}


def _beside(ours: Mapping[str, Spread], published: Mapping[str, paper.Figure]) -> Row:
    """Returns our figures, the paper's, and the difference in points, `None` where the paper has none."""
    row = _ours({metric: ours[metric] for metric in METRICS})
    for metric in METRICS:
        figure = published.get(metric)
        row[f"paper_{metric}"] = figure.mean if figure else None
        row[f"paper_{metric}_std"] = figure.std if figure else None
        row[f"{metric}_difference"] = round(row[metric] - figure.mean, 4) if figure else None
    return row


def _ours(figures: Mapping[str, Spread]) -> Row:
    row: Row = {}
    for metric, spread in figures.items():
        row[metric] = _percent(spread.mean)
        row[f"{metric}_std"] = _percent(spread.std)
        row[f"{metric}_seed_std"] = _percent(spread.seed_std)
    return row


def _bounds(sweep: Sweep, cells: Sequence[Cell]) -> Row:
    intervals = sweep.intervals(cells)
    if intervals is None:
        return _no_bounds()
    return {
        f"{metric}_{name}": _percent(getattr(bounds, end))
        for metric, bounds in (("wa", intervals.wa), ("ua", intervals.ua))
        for end, name in (("value", "pooled"), ("low", "low"), ("high", "high"))
    }


def _no_bounds() -> Row:
    return dict.fromkeys([f"{metric}_{end}" for metric in ("wa", "ua") for end in ("pooled", "low", "high")])


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


def _corpus(sweep: Sweep) -> str:
    return sweep.about.corpus.name


def _figure_columns(rows: list[Row]) -> Columns:
    """Returns the columns of WA, UA and F1, with the paper's where it has any of them."""
    columns: Columns = {}
    for metric in METRICS:
        columns[metric.upper()] = _figure(metric)
        if any(row[f"paper_{metric}"] is not None for row in rows):
            columns[f"paper {metric.upper()}"] = _figure(f"paper_{metric}")
            columns[f"difference {metric.upper()}"] = _difference(metric)
    if any(row["ua_seed_std"] is not None for row in rows):
        columns["UA, seeds ±"] = lambda row: "-" if row["ua_seed_std"] is None else f"{row['ua_seed_std']:.2f}"
    return columns


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _figure(key: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        if row[key] is None:
            return "-"
        spread = row.get(f"{key}_std")
        return f"{row[key]:.2f}" + ("" if spread is None else f" ± {spread:.2f}")

    return text


def _difference(metric: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        difference = row[f"{metric}_difference"]
        # Rounded first: a difference of nothing has no sign.
        return "-" if difference is None else f"{round(difference, 2) + 0.0:+.2f}".replace("+0.00", "0.00")

    return text


def _interval(row: Row) -> str:
    return "-" if row["ua_low"] is None else f"{row['ua_pooled']:.2f} [{row['ua_low']:.2f}, {row['ua_high']:.2f}]"
