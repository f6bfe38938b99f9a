"""The folder of a finished run: model, metrics, predictions, confusion matrix."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
import transformers
from datasets import Dataset

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser import __version__
from whisper_ser.arguments import Arguments, ModelArguments
from whisper_ser.audit import AuditResult
from whisper_ser.checksums import file_sha256, read_sealed, sealed
from whisper_ser.errors import DamagedFileError, RecipeError
from whisper_ser.evaluation import confusion_table, evaluate
from whisper_ser.files import replacing, saving
from whisper_ser.intervals import speaker_intervals
from whisper_ser.known_answer import write_known_answer
from whisper_ser.protocols import Split
from whisper_ser.report.calibration import calibration_of_run, calibration_words, confidence_of, coverage_of
from whisper_ser.report.card import base_model, model_card
from whisper_ser.report.figures import draw_confusion_matrix, draw_coverage
from whisper_ser.report.groups import by_gender, speaker_spread
from whisper_ser.report.recipe import portable, recipe, write_recipe
from whisper_ser.training import Training, remove_checkpoints

METRICS = "metrics.json"
"""Written last: where it is, a run is complete."""
PREDICTIONS = "predictions.parquet"
PREDICTIONS_SHA256 = "predictions_sha256"
"""Field of the metrics."""
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
    predictions = _all_predictions(training, split)
    figures = _metrics(training, predictions, split, hours, arguments)
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


def write_fold(
    folder: Path, training: Training, split: Split, hours: float, arguments: Arguments, identity: str
) -> dict[str, Any]:
    """Writes `metrics.json` and `predictions.parquet` of one fold; returns the metrics."""
    predictions = _all_predictions(training, split)
    metrics = {"identity": identity, **_metrics(training, predictions, split, hours, arguments)}
    write_tables(folder, metrics, predictions)
    remove_checkpoints(folder)
    return metrics


def write_tables(folder: Path, metrics: dict[str, Any], predictions: pandas.DataFrame) -> None:
    """Writes the predictions, then the metrics, which tell the checksums of both."""
    with replacing(folder / PREDICTIONS) as path:
        predictions.to_parquet(path, index=False)
        of_predictions = file_sha256(path)
    with replacing(folder / METRICS) as path:
        content = sealed({**metrics, PREDICTIONS_SHA256: of_predictions})
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_metrics(folder: Path, needs_seal: bool = False) -> dict[str, Any]:
    """Returns the metrics of a run; raises `DamagedFileError` if they are not those that were written."""
    return read_sealed(folder / METRICS, needs_seal)


def check_predictions(folder: Path, metrics: dict[str, Any]) -> None:
    """Raises `DamagedFileError` if the table of predictions of a run is not the one that its metrics tell of."""
    path, expected = folder / PREDICTIONS, metrics.get(PREDICTIONS_SHA256)
    if expected is not None and (not path.is_file() or file_sha256(path) != expected):
        raise DamagedFileError(path)


def draw_results(metrics: dict[str, Any], path: Path) -> None:
    """Writes the confusion matrix of the test utterances of a run."""
    test = metrics["test"]
    title = f"{metrics['corpus']['name']}, {test['utterances']} test utterances, UA {100 * test['ua']:.1f} %"
    draw_confusion_matrix(test["confusion_matrix"], metrics["labels"], title, path)


def _all_predictions(training: Training, split: Split) -> pandas.DataFrame:
    labels = training.model.config.labels
    temperature = training.model.config.temperature
    return pandas.concat(
        [
            _predictions(name, getattr(split, name), logits / temperature, labels)
            for name, logits in training.logits.items()
        ]
    )


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
    """Writes what a stranger needs to use the model and to check it, and nothing of the training."""
    # Frozen for whoever loads it, whatever this run trained.
    model.config.unfreeze_last_n = 0
    model.freeze_encoder()
    with saving(folder):
        model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    write_known_answer(folder)


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


def closing_remarks(metrics: dict[str, Any]) -> list[str]:
    """Returns what has to be said of every table of figures."""
    flattering = metrics["protocol"]["selection"] == "test_best"
    remarks = [TEST_BEST] * flattering + [*metrics["warnings"], *filter(None, [metrics["corpus"]["description"]])]
    return [*remarks, ""] if remarks else []


def _predictions(part: str, utterances: Dataset, logits: np.ndarray, labels: list[str]) -> pandas.DataFrame:
    """Returns one row an utterance: what it is, what was predicted, and the probability of each label."""
    probabilities = torch.from_numpy(logits).float().softmax(-1).numpy()
    names = utterances.features["emotion"].names
    table = pandas.DataFrame(
        {
            "part": part,
            "path": list(utterances["path"]),
            "speaker": list(utterances["speaker"]),
            "gender": list(utterances["gender"]),
            "emotion": [names[emotion] for emotion in utterances["emotion"]],
            "predicted": [labels[index] for index in probabilities.argmax(-1)],
        }
    )
    return table.assign(**{f"probability_{label}": probabilities[:, i] for i, label in enumerate(labels)})


def _metrics(
    training: Training, predictions: pandas.DataFrame, split: Split, hours: float, arguments: Arguments
) -> dict[str, Any]:
    training_arguments = arguments.training
    labels = training.model.config.labels
    parts = {part: evaluate_table(rows, labels) for part, rows in predictions.groupby("part")}
    test = predictions[predictions["part"] == "test"]
    info = split.train.info
    everyone = {name: sorted(set(part["speaker"])) for name, part in zip(split._fields, split, strict=True)}
    return {
        "labels": labels,
        "test": parts["test"],
        "validation": parts.get("validation"),
        "calibration": calibration_of_run(
            test, labels, training.model.config.temperature, len(training.logits.get("validation", []))
        ),
        "coverage": coverage_of(test, labels),
        **between_people(test, labels),
        "corpus": {
            "name": info.dataset_name,
            "description": info.description,
            "languages": sorted({language for part in split for language in part["language"]} - {""}),
            "license": info.license,
            "homepage": info.homepage,
            "citation": info.citation,
            "utterances": sum(map(len, split)),
            "speakers": len(set().union(*everyone.values()) - {""}),
            "hours": round(hours, 3),
        },
        "protocol": {
            **{f"{name}_speakers": speakers for name, speakers in everyone.items()},
            "selection": training_arguments.selection,
            "refit": training_arguments.refit,
            "seed": training_arguments.seed,
        },
        "history": training.history,
        "base_model": _base_model(arguments.model),
        "training": {
            "epochs": training.epochs,
            "batch_size": training_arguments.train_batch_size
            * training_arguments.gradient_accumulation_steps
            * training_arguments.world_size,
            "learning_rate": training_arguments.learning_rate,
            "seconds": round(training.seconds, 1),
            "processes": training_arguments.world_size,
            "device": _device(training_arguments.device),
        },
        "versions": {
            "whisper-ser": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def between_people(test: pandas.DataFrame, labels: list[str]) -> dict[str, Any]:
    """Returns the intervals over speakers, the figures by gender and their spread over speakers of test predictions.

    Each is `None` where speakers or genders are not known.
    """
    spread = speaker_spread(test, labels)
    answers = test["emotion"].to_numpy(), test["predicted"].to_numpy()
    return {
        "intervals": speaker_intervals(*answers, test["speaker"], labels) if spread else None,
        "by_gender": by_gender(test, labels),
        "by_speaker": spread,
    }


def evaluate_table(rows: pandas.DataFrame, labels: list[str]) -> dict[str, Any]:
    """Returns the figures of a predictions table."""
    probabilities = rows[[f"probability_{label}" for label in labels]].to_numpy()
    return evaluate(rows["emotion"].to_numpy(), rows["predicted"].to_numpy(), labels, probabilities)


def _base_model(arguments: ModelArguments) -> dict[str, Any]:
    """Returns where the weights started, and whether that is a name on the Hub or a folder here."""
    name = arguments.model_name_or_path or arguments.encoder or ""
    return {"name": Path(name).name if Path(name).is_dir() else name, "on_hub": not Path(name).is_dir()}


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
