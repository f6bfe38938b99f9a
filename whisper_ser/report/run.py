"""The folder of a finished run: model, metrics, predictions, figures; and its summary for a terminal."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.errors import RecipeError
from whisper_ser.evaluation.results import (
    METRICS_FILE,
    PREDICTIONS,
    Figures,
    RunResult,
    confidence_of,
    join_folds,
    write_result,
)
from whisper_ser.inference.engines.graphs import write_graphs
from whisper_ser.inference.reference_output import write_reference_output
from whisper_ser.io import replacing, saving
from whisper_ser.report.figures import draw_confusion_matrix, draw_coverage
from whisper_ser.report.model_card import base_model, model_card
from whisper_ser.report.protocol import closing_remarks
from whisper_ser.training.experiment import Experiment
from whisper_ser.training.recipe import RECIPE, portable, write_recipe
from whisper_ser.training.results import all_predictions, run_result
from whisper_ser.training.runs import Run
from whisper_ser.training.trainer import Training

CONFUSION_MATRIX = "confusion_matrix.png"
COVERAGE = "coverage.png"
OUTPUTS = {
    "model": "a trained model",
    "folds": "a cross-validation",
    "variants": "a grid",
    "cells": "a sweep of the first version",
}
"""What each kind of run fills in its folder."""
COLUMNS = {"WA": "wa", "UA": "ua", "F1": "f1", "macro F1": "macro_f1"}
"""Of the summary of a cross-validation."""


def write_run(
    folder: Path,
    training: Training,
    extractor: WhisperSerFeatureExtractor,
    experiment: Experiment,
) -> RunResult:
    """Writes `model/`, metrics, predictions, figures and recipe, each whole or not at all; returns the result."""
    fold, arguments = experiment.folds[0], experiment.arguments
    predictions = all_predictions(training, fold)
    result = dataclasses.replace(
        run_result(training, predictions, fold, arguments, extractor, experiment.hours),
        audit=experiment.audit,
        warnings=list(experiment.warnings),
    )
    (folder / METRICS_FILE).unlink(missing_ok=True)
    settings = arguments.to_dict()
    with replacing(folder / "model") as path:
        save_model(path, training.model, extractor)
        write_recipe(path, portable(settings, base_model(result, training.model.config)))
        draw_results(result, path / CONFUSION_MATRIX)
        (path / "README.md").write_text(model_card(result, path), encoding="utf-8")
    write_recipe(folder, settings)
    _write(folder, result, predictions)
    return result


def write_cross_validation(folder: Path, runs: list[Run], experiment: Experiment) -> RunResult:
    """Writes metrics, predictions and figures of finished runs together; returns the result."""
    folders = [run.folder for run in runs]
    result, predictions = join_folds(folders, experiment.protocol, experiment.audit, experiment.warnings)
    _write(folder, result, predictions)
    return result


def _write(folder: Path, result: RunResult, predictions: pandas.DataFrame) -> None:
    """Writes the figures, the predictions and, last, the metrics."""
    test = predictions[predictions["part"] == "test"]
    with replacing(folder / CONFUSION_MATRIX) as path:
        draw_results(result, path)
    with replacing(folder / COVERAGE) as path:
        draw_coverage(*confidence_of(test, result.labels), _title(result), path)
    write_result(folder, result, predictions)


def draw_results(result: RunResult, path: Path) -> None:
    """Writes the confusion matrix of all test utterances of a result."""
    test = result.all_utterances
    title = f"{_title(result)}, {test.utterances} test utterances, UA {100 * test.ua:.1f}%"
    draw_confusion_matrix(test.confusion_matrix, result.labels, title, path)


def _title(result: RunResult) -> str:
    folds = f", {len(result.protocol.folds)} folds" if result.is_cross_validation else ""
    return f"{result.corpus.name}{folds}"


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


def summary(result: RunResult, folder: Path) -> str:
    """Returns the text printed at the end of a run or a cross-validation."""
    rows = _fold_table(result) if result.is_cross_validation else _part_lines(result)
    test = result.all_utterances
    matrix = pandas.DataFrame(test.confusion_matrix, result.labels, result.labels).to_string()
    lines = [*rows, "", "test utterances, true label by row, predicted label by column:", matrix, ""]
    lines += [calibration_line(result), ""]
    if remarks := closing_remarks(result):
        lines += [*remarks, ""]
    names = [METRICS_FILE, PREDICTIONS, CONFUSION_MATRIX, COVERAGE, RECIPE]
    names.append("folds/" if result.is_cross_validation else "model/")
    return "\n".join([*lines, f"{folder}/ holds {', '.join(names)}"])


def _part_lines(result: RunResult) -> list[str]:
    """Returns WA, UA and F1 of the validation and the test part of a run."""
    parts = {"validation": result.validation, "test": result.test}
    return [
        f"{part}: WA {100 * of.wa:.1f}  UA {100 * of.ua:.1f}  F1 {100 * of.f1:.1f}  ({of.utterances} utterances)"
        for part, of in parts.items()
        if of
    ]


def _fold_table(result: RunResult) -> list[str]:
    """Returns the metrics of each fold, their mean and deviations, and those of all utterances with intervals."""
    several = len(result.protocol.seeds) > 1
    rows: list[tuple[str, Figures, int | str]] = [
        (f"{fold.name}, seed {fold.seed}" if several else fold.name, fold.test, fold.test.utterances)
        for fold in result.folds
    ]
    rows.append(("mean", result.test, ""))
    if result.deviations:
        rows.append(("std", result.deviations.folds, ""))
        if result.deviations.seeds:
            rows.append(("std over seeds", result.deviations.seeds, ""))
    rows.append(("pooled", result.all_utterances, result.all_utterances.utterances))
    lines = [f"{'fold':<24}" + "".join(f"{name:>13}" for name in COLUMNS) + f"{'utterances':>12}"]
    for name, figures, utterances in rows:
        shares = "".join(f"{100 * getattr(figures, key):>13.1f}" for key in COLUMNS.values())
        lines.append(f"{name[:23]:<24}{shares}{utterances:>12}".rstrip())
    if result.intervals:
        found = [getattr(result.intervals, key) for key in COLUMNS.values()]
        bounds = "".join(f"{f'{100 * one.low:.1f}-{100 * one.high:.1f}':>13}" for one in found)
        lines.append(f"{'95% over speakers':<24}{bounds}")
    return lines


def calibration_line(result: RunResult) -> str:
    """Returns the expected calibration error of a result and how the temperature was fitted."""
    test, pooled = result.test, result.all_utterances
    if not result.is_cross_validation:
        if not result.validation:
            return f"ECE {test.ece:.3f}; no temperature was fitted, as there are no validation utterances"
        return (
            f"ECE {test.ece:.3f}, {test.ece_before:.3f} before the temperature of {result.folds[0].temperature:.2f}, "
            f"fitted on {result.validation.utterances} validation utterances"
        )
    now = f"ECE {test.ece:.3f} over folds, {pooled.ece:.3f} pooled"
    if not result.fitted:
        return f"{now}; no temperatures were fitted, as there are no validation utterances"
    temperatures = [fold.temperature for fold in result.folds]
    return (
        f"{now}, {test.ece_before:.3f} and {pooled.ece_before:.3f} before the temperatures of "
        f"{np.mean(temperatures):.2f} ± {np.std(temperatures):.2f}, fitted on each fold's own validation speakers"
    )
