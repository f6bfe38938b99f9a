"""The folder of a finished run: model, metrics, predictions, confusion matrix."""

import json
import platform
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
from whisper_ser.evaluation import confusion_table, evaluate
from whisper_ser.files import replacing
from whisper_ser.protocols import Split
from whisper_ser.report.card import model_card
from whisper_ser.report.figures import draw_confusion_matrix
from whisper_ser.training import Training


def write_run(
    folder: Path, training: Training, extractor: WhisperSerFeatureExtractor, split: Split, arguments: Arguments
) -> dict[str, Any]:
    """Writes `model/`, `metrics.json`, `predictions.parquet` and `confusion_matrix.png`; returns the metrics.

    Each is whole or not there; `metrics.json` comes last, so where it is, the run is complete.
    """
    labels = training.model.config.labels
    predictions = pandas.concat(
        [_predictions(name, getattr(split, name), logits, labels) for name, logits in training.logits.items()]
    )
    metrics = _metrics(training, predictions, split, arguments)
    (folder / "metrics.json").unlink(missing_ok=True)
    with replacing(folder / "model") as path:
        save_model(path, training.model, extractor, model_card(metrics, training.model.config))
    with replacing(folder / "predictions.parquet") as path:
        predictions.to_parquet(path, index=False)
    with replacing(folder / "confusion_matrix.png") as path:
        test = metrics["test"]
        title = f"{metrics['corpus']['name']}, {test['utterances']} test utterances, UA {100 * test['ua']:.1f} %"
        draw_confusion_matrix(test["confusion_matrix"], labels, title, path)
    with replacing(folder / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def save_model(
    folder: Path, model: WhisperForEmotionClassification, extractor: WhisperSerFeatureExtractor, card: str
) -> None:
    """Writes what a stranger needs to use the model, and nothing of the training."""
    # Frozen for whoever loads it, whatever this run trained.
    model.config.unfreeze_last_n = 0
    model.freeze_encoder()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def summary(metrics: dict[str, Any], folder: Path) -> str:
    """Returns what a run says at its end."""
    lines = []
    for part in ("validation", "test"):
        if figures := metrics.get(part):
            numbers = "  ".join(f"{name} {100 * figures[name.lower()]:.1f}" for name in ("WA", "UA", "F1"))
            lines.append(f"{part}: {numbers}  ({figures['utterances']} utterances)")
    lines += ["", "test, utterances:", confusion_table(metrics["test"]["confusion_matrix"], metrics["labels"]), ""]
    if metrics["corpus"]["description"]:
        lines += [metrics["corpus"]["description"], ""]
    names = "model/, metrics.json, predictions.parquet, confusion_matrix.png"
    return "\n".join([*lines, f"{folder}/ holds {names}"])


def _predictions(part: str, utterances: Dataset, logits: np.ndarray, labels: list[str]) -> pandas.DataFrame:
    """Returns one row an utterance: what it is, what was predicted, and the probability of each label."""
    probabilities = torch.from_numpy(logits).float().softmax(-1).numpy()
    names = utterances.features["emotion"].names
    table = pandas.DataFrame(
        {
            "part": part,
            "path": list(utterances["path"]),
            "speaker": list(utterances["speaker"]),
            "emotion": [names[emotion] for emotion in utterances["emotion"]],
            "predicted": [labels[index] for index in probabilities.argmax(-1)],
        }
    )
    return table.assign(**{f"probability_{label}": probabilities[:, i] for i, label in enumerate(labels)})


def _metrics(training: Training, predictions: pandas.DataFrame, split: Split, arguments: Arguments) -> dict[str, Any]:
    model_arguments, _, training_arguments = arguments
    labels = training.model.config.labels
    label2id = {label: index for index, label in enumerate(labels)}
    parts = {
        part: evaluate(rows["emotion"].map(label2id).to_numpy(), rows["predicted"].map(label2id).to_numpy(), labels)
        for part, rows in predictions.groupby("part")
    }
    everyone = {name: sorted(set(part["speaker"])) for name, part in zip(split._fields, split, strict=True)}
    return {
        "labels": labels,
        "test": parts["test"],
        "validation": parts.get("validation"),
        "corpus": {
            "name": split.train.info.dataset_name,
            "description": split.train.info.description,
            "utterances": sum(map(len, split)),
            "speakers": sum(map(len, everyone.values())),
            "hours": round(training.audio_hours, 3),
        },
        "protocol": {
            "speakers_shared": False,
            **{f"{name}_speakers": speakers for name, speakers in everyone.items()},
            "selection": training_arguments.selection,
            "seed": training_arguments.seed,
        },
        "base_model": _base_model(model_arguments),
        "training": {
            "epochs": training_arguments.num_train_epochs,
            "batch_size": training_arguments.train_batch_size * training_arguments.world_size,
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
