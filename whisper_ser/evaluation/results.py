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
"""Written last: where it is, a run is complete."""
PREDICTIONS = "predictions.parquet"
PREDICTIONS_SHA256 = "predictions_sha256"
"""Field of the metrics."""


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


def evaluate_table(rows: pandas.DataFrame, labels: list[str]) -> dict[str, Any]:
    """Returns the figures of a predictions table."""
    probabilities = rows[[f"probability_{label}" for label in labels]].to_numpy()
    return evaluate(rows["emotion"].to_numpy(), rows["predicted"].to_numpy(), labels, probabilities)


def predictions_table(part: str, utterances: Dataset, logits: np.ndarray, labels: list[str]) -> pandas.DataFrame:
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
