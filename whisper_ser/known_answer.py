"""What a saved model must answer to one waveform: how anyone can check that they have the right one.

The waveform is a formula, not a recording, and `known_answer.json` carries it along with the probabilities expected
and the SHA-256 of the weights. Hashes are exact; probabilities are compared within a tolerance, since other machines,
numbers of threads and batch shapes round differently.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.errors import WhisperSerError

KNOWN_ANSWER = "known_answer.json"
WEIGHTS = "*.safetensors"

TOLERANCE = 1e-3
"""Largest difference of a probability, in float32. Threads, batches and attention kernels moved those of a model on
whisper-base by 1e-6 at most, float16 by 1.4e-3, bfloat16 by 5e-2."""

FORMULA = (
    "x(t) = a * (1 + sin(2 pi s t)) / 2 * sum over k = 1 ... h of sin(2 pi k (p t + w sin(2 pi v t))) / k, "
    "t = n / sampling_rate for n = 0 ... seconds * sampling_rate - 1, in float64, then float32"
)
HARMONICS = 12
VOICES = [
    {"a": level, "s": syllables, "h": HARMONICS, "p": pitch, "w": waver, "v": 1.5}
    for pitch in (90.0, 150.0, 220.0, 320.0)
    for waver, syllables in ((1.0, 2.5), (6.0, 5.0))
    for level in (0.02, 0.3)
]
"""Voices that waver (`p` and `w v` in hertz), in `s` syllables a second. A model is asked the one it is least sure of:
where it is certain, very different weights would give the same answer."""
SECONDS = 6.0
"""Longer than a chunk of the encoder, so that cutting and joining is checked too."""


class KnownAnswerError(WhisperSerError, ValueError):
    """A model that is not the one it says it is, or that has no known answer."""


def waveform(known: Mapping[str, Any]) -> np.ndarray:
    """Returns the samples, float32 `(samples,)`, that the field `waveform` of a known answer describes.

    Raises:
        KnownAnswerError: another formula than this version's.
    """
    if known.get("formula") != FORMULA:
        raise KnownAnswerError(
            f"The known answer has a formula that this version does not know ({known.get('formula')!r}): use the "
            "version of whisper-ser that saved the model, or a newer one."
        )
    of = known["parameters"]
    time = np.arange(round(known["seconds"] * known["sampling_rate"])) / known["sampling_rate"]
    phase = 2 * np.pi * (of["p"] * time + of["w"] * np.sin(2 * np.pi * of["v"] * time))
    harmonics = sum(np.sin(k * phase) / k for k in range(1, of["h"] + 1))
    return (of["a"] * (1 + np.sin(2 * np.pi * of["s"] * time)) / 2 * harmonics).astype(np.float32)


def write_known_answer(folder: Path) -> None:
    """Writes `known_answer.json` beside a model and a feature extractor saved in `folder`, from what lies there."""
    model, extractor = _load(folder)
    form = {"formula": FORMULA, "seconds": SECONDS, "sampling_rate": extractor.sampling_rate}
    answers = [
        (asked := {**form, "parameters": voice}, _answer(model, extractor, waveform(asked))) for voice in VOICES
    ]
    asked, probabilities = min(answers, key=lambda pair: max(pair[1].values()))
    known = {
        "waveform": asked,
        "probabilities": probabilities,
        "tolerance": TOLERANCE,
        "sha256": weight_hashes(folder),
    }
    (folder / KNOWN_ANSWER).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_known_answer(folder: Path) -> dict[str, Any]:
    """Returns the known answer of the model in `folder`.

    Raises:
        KnownAnswerError: there is none, or it is not readable.
    """
    path = folder / KNOWN_ANSWER
    if not path.is_file():
        raise KnownAnswerError(f"{folder} has no {KNOWN_ANSWER}: only a model that run_train.py saved can be checked.")
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        complete = isinstance(known["sha256"], dict) and isinstance(known["probabilities"], dict)
        readable = complete and bool(known["waveform"]["formula"]) and float(known["tolerance"]) >= 0
    except (ValueError, KeyError, TypeError):
        readable = False
    if not readable:
        raise KnownAnswerError(f"{path} is damaged: expected what run_train.py writes. Fetch or save the model again.")
    return known


def answer(folder: Path, audio: np.ndarray) -> dict[str, float]:
    """Returns the probability of each label that the model in `folder` gives to `audio` `(samples,)`, on the CPU."""
    return _answer(*_load(folder), audio)


def _load(folder: Path) -> tuple[WhisperForEmotionClassification, WhisperSerFeatureExtractor]:
    model = WhisperForEmotionClassification.from_pretrained(folder, dtype=torch.float32)
    return model, WhisperSerFeatureExtractor.from_pretrained(folder)


def _answer(
    model: WhisperForEmotionClassification, extractor: WhisperSerFeatureExtractor, audio: np.ndarray
) -> dict[str, float]:
    with torch.inference_mode():
        logits = model(**extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="pt")).logits[0]
    probabilities = [round(value, 6) for value in logits.double().softmax(-1).tolist()]
    return dict(zip(model.config.labels, probabilities, strict=True))


def weight_hashes(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each weight file in `folder`, by its name."""
    hashes = {}
    for path in sorted(folder.glob(WEIGHTS)):
        with open(path, "rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def check_weights(folder: Path, known: Mapping[str, Any]) -> None:
    """Raises `KnownAnswerError` unless the weights in `folder` are, bit for bit, those of the known answer."""
    found, expected = weight_hashes(folder), known["sha256"]
    if not expected or found != expected:
        changed = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise KnownAnswerError(
            f"The weights in {folder} are not those that were saved: {', '.join(changed) or 'none are named'}. "
            f"Expected SHA-256 {_hashes(expected)}; found {_hashes(found)}. Do not use the model; fetch it again."
        )


def check_probabilities(found: Mapping[str, float], known: Mapping[str, Any], who: str) -> float:
    """Returns the largest difference of a probability to those expected.

    Args:
        found: probability of each label.
        known: the known answer.
        who: answered, for the message.

    Raises:
        KnownAnswerError: other labels, or a difference beyond the tolerance of the known answer.
    """
    expected, tolerance = known["probabilities"], known["tolerance"]
    if set(found) != set(expected):
        raise KnownAnswerError(f"{who} has the labels {', '.join(found)}; expected {', '.join(expected)}.")
    differences = [abs(found[label] - expected[label]) for label in expected]
    if not all(math.isfinite(value) for value in differences) or max(differences) > tolerance:
        raise KnownAnswerError(
            f"{who} gives {_shown(found)} to the known waveform; expected {_shown(expected)} within {tolerance:g}. "
            "The weights, the code or the settings are not those that were saved: do not use the model."
        )
    return max(differences)


def _shown(probabilities: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {probability:.4f}" for label, probability in probabilities.items())


def _hashes(hashes: Mapping[str, str]) -> str:
    return ", ".join(f"{sha256} ({name})" for name, sha256 in sorted(hashes.items())) or "none"
