"""The folder of a finished run: model, metrics, predictions, confusion matrix."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.data.leakage import AuditResult
from whisper_ser.data.splits import Split
from whisper_ser.errors import RecipeError
from whisper_ser.evaluation.calibration import confidence_of
from whisper_ser.evaluation.metrics import confusion_table
from whisper_ser.evaluation.results import METRICS, write_tables
from whisper_ser.inference.engines.graphs import write_graphs
from whisper_ser.inference.reference_output import write_reference_output
from whisper_ser.io import replacing, saving
from whisper_ser.report.figures import draw_confusion_matrix, draw_coverage
from whisper_ser.report.model_card import base_model, model_card
from whisper_ser.training.recipe import portable, recipe, write_recipe
from whisper_ser.training.results import all_predictions, run_metrics
from whisper_ser.training.settings import Arguments
from whisper_ser.training.trainer import Training

CONFUSION_MATRIX = "confusion_matrix.png"
COVERAGE = "coverage.png"
OUTPUTS = {
    "model": "a trained model",
    "folds": "a cross-validation",
    "cells": "a sweep",
    "variants": "an ablation",
}
"""What each kind of run fills in its folder."""
TEST_BEST = "selection=test_best: the test part chose the epoch it is reported for, which flatters."


def write_run(
    folder: Path,
    training: Training,
    extractor: WhisperSerFeatureExtractor,
    split: Split,
    hours: float,
    audited: AuditResult,
    warnings: Sequence[str],
    arguments: Arguments,
) -> dict[str, Any]:
    """Writes `model/`, metrics, predictions, figures and recipe; returns the metrics.

    Each is whole or not there. `hours` are those of all audio, `warnings` what every table has to say.
    """
    predictions = all_predictions(training, split)
    figures = run_metrics(training, predictions, split, hours, arguments)
    metrics = {**figures, "audit": asdict(audited), "warnings": list(warnings)}
    (folder / METRICS).unlink(missing_ok=True)
    settings = recipe(arguments)
    with replacing(folder / "model") as path:
        save_model(path, training.model, extractor)
        write_recipe(path, portable(settings, base_model(metrics, training.model.config)))
        draw_results(metrics, path / CONFUSION_MATRIX)
        (path / "README.md").write_text(model_card(metrics, path), encoding="utf-8")
    with replacing(folder / CONFUSION_MATRIX) as path:
        draw_results(metrics, path)
    with replacing(folder / COVERAGE) as path:
        test = predictions[predictions["part"] == "test"]
        draw_coverage(*confidence_of(test, metrics["labels"]), metrics["corpus"]["name"], path)
    write_recipe(folder, settings)
    write_tables(folder, metrics, predictions)
    return metrics


def draw_results(metrics: dict[str, Any], path: Path) -> None:
    """Writes the confusion matrix of the test utterances of a run."""
    test = metrics["test"]
    title = f"{metrics['corpus']['name']}, {test['utterances']} test utterances, UA {100 * test['ua']:.1f}%"
    draw_confusion_matrix(test["confusion_matrix"], metrics["labels"], title, path)


def check_output(folder: Path, holds: str) -> None:
    """Raises `RecipeError` before a training that would mix its results with others, or replace what is none of ours.

    Args:
        folder: `--output_dir`.
        holds: the folder in it that this kind of run fills, of `OUTPUTS`.
    """
    model = folder / "model"
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"--output_dir {folder} is a file; name a folder.")
    for name, kind in OUTPUTS.items():
        if name != holds and (folder / name).exists():
            raise RecipeError(f"--output_dir {folder} holds {kind} ({name}/): choose another folder, or move it away.")
    if model.exists() and not (model / "config.json").is_file():
        raise RecipeError(f"{model} exists and holds no model: choose another --output_dir, or move it away.")


def save_model(folder: Path, model: WhisperForEmotionClassification, extractor: WhisperSerFeatureExtractor) -> None:
    """Writes all files that others need to use and verify the model, and nothing else of the training."""
    # Frozen for whoever loads it, whatever this run trained.
    model.config.unfreeze_last_n = 0
    model.freeze_encoder()
    with saving(folder):
        model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    write_reference_output(folder)
    write_graphs(folder)


def summary(metrics: dict[str, Any], folder: Path) -> str:
    """Returns what a run says at its end."""
    lines = []
    for part in ("validation", "test"):
        if figures := metrics.get(part):
            numbers = "  ".join(f"{name} {100 * figures[name.lower()]:.1f}" for name in ("WA", "UA", "F1"))
            lines.append(f"{part}: {numbers}  ({figures['utterances']} utterances)")
    lines += ["", "test, utterances:", confusion_table(metrics["test"]["confusion_matrix"], metrics["labels"]), ""]
    lines += [calibration_words(metrics["calibration"]), ""]
    lines += closing_remarks(metrics)
    names = "model/, metrics.json, predictions.parquet, confusion_matrix.png, coverage.png, recipe.json"
    return "\n".join([*lines, f"{folder}/ holds {names}"])


def calibration_words(calibration: dict[str, Any]) -> str:
    """Returns the calibration of a run or of a cross-validation, as `metrics.json` has it, in a line."""
    temperature, before, after = (calibration[name] for name in ("temperature", "ece_before", "ece_after"))
    if "pooled" not in calibration:
        if not calibration["validation_utterances"]:
            return f"ECE {after:.3f}; no temperature was fitted, as there are no validation utterances"
        fitted_on = f"fitted on {calibration['validation_utterances']} validation utterances"
        return f"ECE {after:.3f}, {before:.3f} before the temperature of {temperature:.2f}, {fitted_on}"
    pooled = calibration["pooled"]
    now = f"ECE {after['mean']:.3f} over folds, {pooled['ece_after']:.3f} pooled"
    if not calibration["fitted"]:
        return f"{now}; no temperatures were fitted, as there are no validation utterances"
    return (
        f"{now}, {before['mean']:.3f} and {pooled['ece_before']:.3f} before the temperatures of "
        f"{temperature['mean']:.2f} +- {temperature['std']:.2f}, fitted on each fold's own validation speakers"
    )


def closing_remarks(metrics: dict[str, Any]) -> list[str]:
    """Returns what has to be said of every table of figures."""
    flattering = metrics["protocol"]["selection"] == "test_best"
    remarks = [TEST_BEST] * flattering + [*metrics["warnings"], *filter(None, [metrics["corpus"]["description"]])]
    return [*remarks, ""] if remarks else []
