"""The results of a run on disk: `metrics.json` and `predictions.parquet`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from datasets import Dataset

from whisper_ser.errors import DamagedFileError
from whisper_ser.evaluation.bootstrap import speaker_intervals
from whisper_ser.evaluation.groups import by_gender, speaker_spread
from whisper_ser.evaluation.metrics import evaluate
from whisper_ser.io import file_sha256, read_sealed, replacing, sealed

METRICS = "metrics.json"
"""Written last: a folder that has it holds a complete run."""
PREDICTIONS = "predictions.parquet"
PREDICTIONS_SHA256 = "predictions_sha256"


def write_tables(folder: Path, metrics: dict[str, Any], predictions: pandas.DataFrame) -> None:
    """Writes the predictions, then the metrics with the checksums of both."""
    with replacing(folder / PREDICTIONS) as path:
        predictions.to_parquet(path, index=False)
        of_predictions = file_sha256(path)
    with replacing(folder / METRICS) as path:
        content = sealed({**metrics, PREDICTIONS_SHA256: of_predictions})
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_metrics(folder: Path, needs_seal: bool = False) -> dict[str, Any]:
    """Returns the metrics of a run; raises `DamagedFileError` if the file was changed."""
    return read_sealed(folder / METRICS, needs_seal)


def check_predictions(folder: Path, metrics: dict[str, Any]) -> None:
    """Raises `DamagedFileError` if the predictions of a run do not have the checksum in its metrics."""
    path, expected = folder / PREDICTIONS, metrics.get(PREDICTIONS_SHA256)
    if expected is not None and (not path.is_file() or file_sha256(path) != expected):
        raise DamagedFileError(path)


def evaluate_table(rows: pandas.DataFrame, labels: list[str]) -> dict[str, Any]:
    """Returns the metrics of a predictions table."""
    probabilities = rows[[f"probability_{label}" for label in labels]].to_numpy()
    return evaluate(rows["emotion"].to_numpy(), rows["predicted"].to_numpy(), labels, probabilities)


def predictions_table(part: str, utterances: Dataset, logits: np.ndarray, labels: list[str]) -> pandas.DataFrame:
    """Returns a row for each utterance: its columns in the corpus, the prediction, and each label's probability."""
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


def speaker_statistics(test: pandas.DataFrame, labels: list[str]) -> dict[str, Any]:
    """Returns intervals over speakers, metrics by gender and the spread over speakers of test predictions.

    Each is `None` where speakers or genders are unknown.
    """
    spread = speaker_spread(test, labels)
    answers = test["emotion"].to_numpy(), test["predicted"].to_numpy()
    return {
        "intervals": speaker_intervals(*answers, test["speaker"], labels) if spread else None,
        "by_gender": by_gender(test, labels),
        "by_speaker": spread,
    }
