"""The folder of a cross-validation: all folds' predictions and figures together."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas

from whisper_ser.evaluation.calibration import calibration_of_folds, confidence_of, coverage_of
from whisper_ser.evaluation.metrics import confusion_table, summarise_folds, summarise_seeds
from whisper_ser.evaluation.results import (
    METRICS,
    PREDICTIONS,
    check_predictions,
    read_metrics,
    speaker_statistics,
    write_tables,
)
from whisper_ser.io import replacing
from whisper_ser.report.figures import draw_confusion_matrix, draw_coverage
from whisper_ser.report.run import CONFUSION_MATRIX, COVERAGE, calibration_words, closing_remarks
from whisper_ser.training.experiment import Experiment
from whisper_ser.training.runs import Run

FIGURES = (("WA", "wa"), ("UA", "ua"), ("F1", "f1"), ("macro F1", "macro_f1"))


def write_cross_validation(folder: Path, runs: Sequence[Run], experiment: Experiment) -> dict[str, Any]:
    """Writes `metrics.json`, `predictions.parquet` and the figures of finished runs together; returns the metrics."""
    folds = experiment.folds
    trained = [(run.arguments.training.seed, folds[run.fold], run.folder) for run in runs]
    of_folds = [read_metrics(run.folder, needs_seal=True) for run in runs]
    for run, figures in zip(runs, of_folds, strict=True):
        check_predictions(run.folder, figures)
    tables = [
        pandas.read_parquet(folder / PREDICTIONS).assign(fold=fold.name, seed=seed) for seed, fold, folder in trained
    ]
    predictions, labels = pandas.concat(tables), of_folds[0]["labels"]
    tests = [table[table["part"] == "test"] for table in tables]
    tested = pandas.concat(tests)
    summary = summarise_folds([metrics["test"] for metrics in of_folds])
    metrics = {
        "labels": labels,
        "test": summary,
        "seeds": _over_seeds(of_folds, len(folds)),
        "calibration": calibration_of_folds(tests, labels, [metrics["calibration"] for metrics in of_folds]),
        "coverage": coverage_of(tested, labels),
        **speaker_statistics(tested, labels),
        "folds": [
            {
                "name": fold.name,
                **{name: figures[name] for name in ("test", "validation", "calibration")},
                **figures["protocol"],
            }
            for (_, fold, _), figures in zip(trained, of_folds, strict=True)
        ],
        "corpus": of_folds[0]["corpus"],
        "protocol": {
            "name": experiment.protocol,
            "selection": of_folds[0]["protocol"]["selection"],
            "refit": of_folds[0]["protocol"]["refit"],
            "seeds": [*dict.fromkeys(seed for seed, _, _ in trained)],
        },
        "audit": asdict(experiment.audit),
        "warnings": list(experiment.warnings),
        "base_model": of_folds[0]["base_model"],
        "training": {
            **of_folds[0]["training"],
            "seconds": round(sum(figures["training"]["seconds"] for figures in of_folds), 1),
        },
        "versions": of_folds[0]["versions"],
    }
    title = f"{metrics['corpus']['name']}, {len(folds)} folds, UA {100 * summary['ua']['mean']:.1f} %"
    with replacing(folder / CONFUSION_MATRIX) as path:
        draw_confusion_matrix(summary["pooled"]["confusion_matrix"], labels, title, path)
    with replacing(folder / COVERAGE) as path:
        draw_coverage(*confidence_of(tested, labels), f"{metrics['corpus']['name']}, {len(folds)} folds", path)
    write_tables(folder, metrics, predictions)
    return metrics


def cross_validation_summary(metrics: dict[str, Any], folder: Path) -> str:
    """Returns what a cross-validation says at its end."""
    test, intervals = metrics["test"], metrics["intervals"]
    lines = [f"{'fold':<24}" + "".join(f"{name:>13}" for name, _ in FIGURES) + f"{'utterances':>12}"]
    several = len(metrics["protocol"]["seeds"]) > 1
    for fold in metrics["folds"]:
        name = f"{fold['name']}, seed {fold['seed']}" if several else fold["name"]
        shares = "".join(f"{100 * fold['test'][key]:>13.1f}" for _, key in FIGURES)
        lines.append(f"{name[:23]:<24}{shares}{fold['test']['utterances']:>12}")
    for row in ("mean", "std"):
        lines.append(f"{row:<24}" + "".join(f"{100 * test[key][row]:>13.1f}" for _, key in FIGURES))
    if several:
        lines.append(
            f"{'std over seeds':<24}" + "".join(f"{100 * metrics['seeds'][key]['std']:>13.1f}" for _, key in FIGURES)
        )
    pooled = "".join(f"{100 * test['pooled'][key]:>13.1f}" for _, key in FIGURES)
    lines.append(f"{'pooled':<24}{pooled}{test['utterances']:>12}")
    if intervals:
        bounds = [f"{100 * intervals[key]['low']:.1f}-{100 * intervals[key]['high']:.1f}" for _, key in FIGURES]
        lines.append(f"{'95 % over speakers':<24}" + "".join(f"{bound:>13}" for bound in bounds))
    table = confusion_table(test["pooled"]["confusion_matrix"], metrics["labels"])
    lines += [
        "",
        "test utterances of all folds:",
        table,
        "",
        calibration_words(metrics["calibration"]),
        "",
        *closing_remarks(metrics),
    ]
    return "\n".join([*lines, f"{folder}/ holds {METRICS}, {PREDICTIONS}, {CONFUSION_MATRIX}, {COVERAGE} and folds/"])


def _over_seeds(of_folds: list[dict[str, Any]], folds: int) -> dict[str, Any]:
    tests = [figures["test"] for figures in of_folds]
    return summarise_seeds([tests[start : start + folds] for start in range(0, len(tests), folds)])
