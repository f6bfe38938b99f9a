"""What a saved model must answer to one waveform: how anyone can check that they have the right one.

The waveform is a formula, not a recording, and `known_answer.json` carries it along with the probabilities expected
and the SHA-256 of the weights. Hashes are exact; probabilities are compared within a tolerance, since other machines,
numbers of threads and batch shapes round differently.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.inference.reference_waveform import (
    FORMULA,
    SECONDS,
    VOICES,
    KnownAnswerError,
    is_known_answer,
    waveform,
)
from whisper_ser.io import file_sha256

KNOWN_ANSWER = "known_answer.json"
WEIGHTS = "*.safetensors"
SETTINGS = ("config.json", "preprocessor_config.json")
"""Files that change the answers without being weights."""

TOLERANCE = 1e-3
"""Largest difference of a probability, in float32. Threads, batches and attention kernels moved those of a model on
whisper-base by 1e-6 at most, float16 by 1.4e-3, bfloat16 by 5e-2."""


def write_known_answer(folder: Path) -> None:
    """Writes `known_answer.json` beside a model and a feature extractor saved in `folder`, from what lies there."""
    asked, probabilities = hardest_question(*_load(folder))
    known = {
        "waveform": asked,
        "probabilities": probabilities,
        "tolerance": TOLERANCE,
        "sha256": weight_hashes(folder),
        "settings_sha256": {name: file_sha256(folder / name) for name in SETTINGS},
    }
    (folder / KNOWN_ANSWER).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def hardest_question(
    model: WhisperForEmotionClassification, extractor: WhisperSerFeatureExtractor
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns the waveform, described, that the model is least sure of, and its probability of each label there."""
    form = {"formula": FORMULA, "seconds": SECONDS, "sampling_rate": extractor.sampling_rate}
    answers = [
        (asked := {**form, "parameters": voice}, _answer(model, extractor, waveform(asked))) for voice in VOICES
    ]
    return min(answers, key=lambda pair: max(pair[1].values()))


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
        hashes = isinstance(known["sha256"], dict) and isinstance(known.get("settings_sha256", {}), dict)
        readable = hashes and is_known_answer(known)
    except (ValueError, KeyError, TypeError, RecursionError):
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
    return {path.name: file_sha256(path) for path in sorted(folder.glob(WEIGHTS))}


def check_as_saved(folder: Path) -> None:
    """Raises `KnownAnswerError` if weights or settings in `folder` are not those of the known answer there."""
    if (folder / KNOWN_ANSWER).is_file():
        known = read_known_answer(folder)
        check_weights(folder, known)
        check_settings(folder, known)


def check_settings(folder: Path, known: Mapping[str, Any]) -> None:
    """Raises `KnownAnswerError` unless the settings in `folder` are, byte for byte, those of the known answer."""
    for name, expected in known.get("settings_sha256", {}).items():  # earlier versions noted none
        path = folder / name
        if name not in SETTINGS or not path.is_file() or file_sha256(path) != expected:
            raise KnownAnswerError(
                f"{path} is not the file that was saved with the model. Fetch the model again; if you changed it on "
                f"purpose, {KNOWN_ANSWER} no longer belongs to the model: delete it."
            )


def check_weights(folder: Path, known: Mapping[str, Any]) -> None:
    """Raises `KnownAnswerError` unless the weights in `folder` are, bit for bit, those of the known answer."""
    found, expected = weight_hashes(folder), known["sha256"]
    if not expected or found != expected:
        changed = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise KnownAnswerError(
            f"The weights in {folder} are not those that were saved: {', '.join(changed) or 'none are named'}. "
            f"Expected SHA-256 {_hashes(expected)}; found {_hashes(found)}. Do not use the model; fetch it again."
        )


def _hashes(hashes: Mapping[str, str]) -> str:
    return ", ".join(f"{sha256} ({name})" for name, sha256 in sorted(hashes.items())) or "none"
