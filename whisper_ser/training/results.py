"""What a finished training is measured by: its predictions and metrics."""

import platform
from pathlib import Path
from typing import Any

import pandas
import torch
import transformers

from whisper_ser import __version__
from whisper_ser.data.splits import Split
from whisper_ser.evaluation.calibration import calibration_of_run, coverage_of
from whisper_ser.evaluation.results import evaluate_table, predictions_table, speaker_statistics, write_tables
from whisper_ser.training.settings import Arguments, ModelArguments
from whisper_ser.training.trainer import Training, remove_checkpoints


def write_fold(
    folder: Path, training: Training, split: Split, hours: float, arguments: Arguments, identity: str
) -> dict[str, Any]:
    """Writes `metrics.json` and `predictions.parquet` of one fold; returns the metrics."""
    predictions = all_predictions(training, split)
    metrics = {"identity": identity, **run_metrics(training, predictions, split, hours, arguments)}
    write_tables(folder, metrics, predictions)
    remove_checkpoints(folder)
    return metrics


def all_predictions(training: Training, split: Split) -> pandas.DataFrame:
    labels = training.model.config.labels
    temperature = training.model.config.temperature
    return pandas.concat(
        [
            predictions_table(name, getattr(split, name), logits / temperature, labels)
            for name, logits in training.logits.items()
        ]
    )


def run_metrics(
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
        **speaker_statistics(test, labels),
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


def _base_model(arguments: ModelArguments) -> dict[str, Any]:
    """Returns where the weights started, and whether that is a name on the Hub or a folder here."""
    name = arguments.model_name_or_path or arguments.encoder or ""
    return {"name": Path(name).name if Path(name).is_dir() else name, "on_hub": not Path(name).is_dir()}


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
