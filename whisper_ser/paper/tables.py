"""The tables of a sweep: figures for CSV, and the same for people."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.evaluation.bootstrap import speaker_intervals
from whisper_ser.evaluation.results import METRICS as METRICS_FILE
from whisper_ser.evaluation.results import check_predictions, read_metrics
from whisper_ser.paper import published as paper
from whisper_ser.paper.choice import Choice, Rule, best_on_test, has_validation, nested
from whisper_ser.paper.cost import Cost, published_cost, whisper_cost
from whisper_ser.paper.latency import SECONDS, Latency
from whisper_ser.paper.results import Setting, Spread, Sweep, spreads
from whisper_ser.report.tables import PUBLISHED, Columns, Row, Table

MeasureLatency = Callable[[WhisperSerConfig, float | None], Latency]
"""As `latency.measure_latency`."""

METRICS = ("wa", "ua", "f1")


def best_layers(sweep: Sweep, folder: Path) -> list[Table]:
    """Returns Table 1 by each rule: `nested` only where there are validation figures."""
    rules: list[tuple[Rule, str, str]] = [
        (nested, "table1_nested", "Table 1a. Best layer, chosen on validation speakers within each fold"),
        (best_on_test, "table1_best_on_test", "Table 1b. Best layer, chosen on the test folds: flattering"),
    ]
    return [
        _best_layer_table(sweep, folder, rule, name, title)
        for rule, name, title in rules
        if rule is best_on_test or has_validation(sweep)
    ]


def _best_layer_table(sweep: Sweep, folder: Path, rule: Rule, name: str, title: str) -> Table:
    rows = [
        _best_layer_row(sweep, folder, encoder, pooling, rule)
        for encoder in sweep.encoders
        for pooling in sweep.poolings
    ]
    columns: Columns = {"encoder": _text("encoder"), "pooling": _text("pooling")}
    columns["layer (runs)" if rule is nested else "layer"] = _text("layer")
    if any(row["layers_complete"] < row["layers_of_sweep"] for row in rows):
        columns["layers complete"] = lambda row: f"{row['layers_complete']} of {row['layers_of_sweep']}"
    columns |= {**_figure_columns(rows), "UA, all utterances [95 %]": _interval}
    return Table(name, title, rows, columns)


def all_layers(sweep: Sweep, encoder: str) -> Table:
    """Returns Table 3 or 4 of one encoder: every layer and pooling."""
    rows = [_layer_row(sweep, setting) for setting in sweep.settings(encoder)]
    columns: Columns = {"pooling": _text("pooling"), "layer": _text("layer"), **_figure_columns(rows)}
    title = f"{encoder}, {sweep.config(encoder)['encoder_layers']} layers"
    return Table(f"table3-4_{re.sub(r'[^A-Za-z0-9._-]', '_', encoder)}", title, rows, columns)


def prior_work(sweep: Sweep, folder: Path, measure: MeasureLatency | None) -> Table:
    """Returns Table 2: what the paper quotes for this corpus, the paper's own row, and ours, with their cost."""
    rows = [_published_row(sweep.results["corpus"]["name"], result) for result in paper.prior_work(_corpus(sweep))]
    for encoder in sweep.encoders:
        for rule in (nested, best_on_test):
            if choice := rule(sweep, sweep.settings(encoder)):
                rows.append(_own_row(sweep, folder, encoder, choice, measure))
    columns: Columns = {
        "model": _text("model"),
        "layer (runs)": _text("layer"),
        "pooling (runs)": _text("pooling"),
        "source": _text("source"),
        "WA": _figure("wa"),
        "UA": _figure("ua"),
        "UA, all utterances [95 %]": _interval,
        "encoder parameters": lambda row: f"{row['encoder_parameters'] / 1e6:.1f} M",
        "operations a second": lambda row: f"{row['macs_per_second'] / 1e9:.2f} G",
        "latency": lambda row: "-" if row["latency_ms"] is None else f"{row['latency_ms']:.1f} ms",
    }
    return Table("table2", "Table 2. Prior work, and what it costs", rows, columns)


def pooled_intervals(sweep: Sweep, folder: Path, choice: Choice) -> dict[str, Any] | None:
    """Returns `speaker_intervals` of all test predictions of these runs; `None` without predictions or speakers."""
    paths = [folder / cell["predictions"] for cell in choice.cells.values() if cell.get("predictions")]
    if len(paths) < len(choice.cells) or not all(path.is_file() for path in paths):
        return None
    for path in paths:
        if (path.parent / METRICS_FILE).is_file():
            check_predictions(path.parent, read_metrics(path.parent))
    columns = ["part", "speaker", "emotion", "predicted"]
    predictions = pandas.concat([pandas.read_parquet(path, columns=columns) for path in paths])
    test = predictions[predictions["part"] == "test"]
    if (test["speaker"] == "").any() or test["speaker"].nunique() < 2:
        return None
    return speaker_intervals(test["emotion"].to_numpy(), test["predicted"].to_numpy(), test["speaker"], sweep.labels)


def counts(values: Mapping[Any, int]) -> str:
    """Returns `3` where all runs agree, else `3 (8), 4 (2)` with the number of runs of each, ascending."""
    if len(values) == 1:
        return str(next(iter(values)))
    return ", ".join(f"{value} ({values[value]})" for value in sorted(values))


def _best_layer_row(sweep: Sweep, folder: Path, encoder: str, pooling: str, rule: Rule) -> Row:
    settings = sweep.settings(encoder, pooling)
    choice = rule(sweep, settings)
    return {
        "encoder": encoder,
        "pooling": pooling,
        "layer": counts(choice.layers) if choice else "-",
        "layers_complete": len(sweep.complete(settings)),
        "layers_of_sweep": len(settings),
        **_beside(spreads(choice.cells) if choice else {}, paper.best_layer(_corpus(sweep), encoder, pooling)),
        **_bounds(sweep, folder, choice),
        "missing": "" if choice else "missing",
    }


def _layer_row(sweep: Sweep, setting: Setting) -> Row:
    cells, runs = sweep.cells.get(setting, {}), len(sweep.runs)
    return {
        "encoder": setting.encoder,
        "pooling": setting.pooling,
        "layer": setting.layer,
        "runs": len(cells),
        "runs_of_sweep": runs,
        **_beside(spreads(cells) if len(cells) == runs else {}, paper.one_layer(_corpus(sweep), *_paper_key(setting))),
        "missing": "" if len(cells) == runs else f"missing: {len(cells)} of {runs} runs are there",
    }


def _paper_key(setting: Setting) -> tuple[str, str, int]:
    return setting.encoder, setting.pooling, setting.layer


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
        **_costs(published_cost(result.encoder, SECONDS, layer), None),
        "missing": "",
    }


def _own_row(sweep: Sweep, folder: Path, encoder: str, choice: Choice, measure: MeasureLatency | None) -> Row:
    window, of_choice = sweep.results["protocol"]["pad_to_seconds"], spreads(choice.cells)
    config = sweep.model_config(encoder, choice.deepest, choice.poolings.most_common(1)[0][0])
    cost = whisper_cost(sweep.config(encoder), choice.deepest, SECONDS, config.chunk_seconds, window)
    return {
        "model": encoder,
        "layer": counts(choice.layers),
        "pooling": counts(choice.poolings),
        "source": f"this sweep, {choice.rule}",
        "rule": choice.rule,
        **_ours({metric: of_choice[metric] for metric in ("wa", "ua")}),
        **_bounds(sweep, folder, choice),
        **_costs(cost, measure(config, window) if measure else None),
        "missing": "",
    }


def _costs(cost: Cost, latency: Latency | None) -> Row:
    return {
        "encoder_parameters": cost.parameters,
        "macs_per_second": round(cost.macs_per_second),
        "latency_ms": round(1000 * latency.seconds, 1) if latency else None,
        "device": latency.device if latency else "",
    }


def _beside(ours: Mapping[str, Spread], published: Mapping[str, paper.Figure]) -> Row:
    """Returns our figures, the paper's, and the difference in points, `None` where either has none."""
    row = _ours({metric: ours.get(metric) for metric in METRICS})
    for metric in METRICS:
        figure, own = published.get(metric), row[metric]
        row[f"paper_{metric}"] = figure.mean if figure else None
        row[f"paper_{metric}_std"] = figure.std if figure else None
        row[f"{metric}_difference"] = round(own - figure.mean, 4) if figure and own is not None else None
    return row


def _ours(figures: Mapping[str, Spread | None]) -> Row:
    row: Row = {}
    for metric, spread in figures.items():
        row[metric] = _percent(spread.mean if spread else None)
        row[f"{metric}_std"] = _percent(spread.std if spread else None)
        row[f"{metric}_seed_std"] = _percent(spread.seed_std if spread else None)
    return row


def _bounds(sweep: Sweep, folder: Path, choice: Choice | None) -> Row:
    intervals = pooled_intervals(sweep, folder, choice) if choice else None
    if intervals is None:
        return _no_bounds()
    names = {"value": "pooled", "low": "low", "high": "high"}
    return {f"{metric}_{names[end]}": _percent(intervals[metric][end]) for metric in ("wa", "ua") for end in names}


def _no_bounds() -> Row:
    return dict.fromkeys([f"{metric}_{end}" for metric in ("wa", "ua") for end in ("pooled", "low", "high")])


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


def _corpus(sweep: Sweep) -> str:
    return sweep.results["corpus"]["name"]


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
            return (row["missing"] if key == "wa" else "") or "-"
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
