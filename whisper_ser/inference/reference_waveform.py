"""The waveforms of reference outputs, and the comparison with an expected output; needs neither a model nor torch.

Version 1: x(t) = a * (1 + sin(2 pi s t)) / 2 * sum over k = 1 ... h of sin(2 pi k (p t + w sin(2 pi v t))) / k,
t = n / sampling_rate for n = 0 ... seconds * sampling_rate - 1, in float64, then float32.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from whisper_ser.errors import WhisperSerError

VERSION = 1
"""Of the waveform. A change of the formula is a new version; models of earlier ones must still verify."""
FORMULA_BEFORE_VERSIONS = (
    "x(t) = a * (1 + sin(2 pi s t)) / 2 * sum over k = 1 ... h of sin(2 pi k (p t + w sin(2 pi v t))) / k, "
    "t = n / sampling_rate for n = 0 ... seconds * sampling_rate - 1, in float64, then float32"
)
"""Models saved by early releases (0.1.0) carry this text in place of version 1: never edit it."""
HARMONICS = 12
VOICES = [
    {"a": level, "s": syllables, "h": HARMONICS, "p": pitch, "w": waver, "v": 1.5}
    for pitch in (90.0, 150.0, 220.0, 320.0)
    for waver, syllables in ((1.0, 2.5), (6.0, 5.0))
    for level in (0.02, 0.3)
]
"""Parameters: level, syllables a second, harmonics, pitch and its vibrato (`p` and `w v` in hertz)."""
SECONDS = 6.0
"""Longer than a chunk of the encoder, so that cutting and joining chunks is checked too."""

MAX_SECONDS, MAX_SAMPLING_RATE, MAX_HARMONICS = 60, 192_000, 100
"""Limits of a waveform, so that a damaged or hostile file cannot exhaust the memory."""
MAX_TOLERANCE = 0.05
TOLERANCES = {"float32": 1e-4, "int8": 0.02}
"""Largest difference of a probability on ONNX Runtime, by precision: in float32 from the reference output, in int8
from what the same integers give when they are multiplied as floats, which is right on every processor."""
NOT_AS_SAVED = "Weights, code or settings are not those that were saved: do not use the model."
WRONG_INTEGERS = "The 8-bit products of this processor are too far from exact ones for this model: use float32."
INT8_LIMIT = 0.5
"""Largest difference of a probability in int8 from the one in float32: what is beyond is damaged, not rounded. On
synthetic voices of which a model on whisper-base was not certain, it was 0.25."""


class ReferenceOutputError(WhisperSerError, ValueError):
    """A model whose weights, settings or output are not those that were saved, or that has no reference output."""


def describe_waveform(voice: Mapping[str, float], sampling_rate: int) -> dict[str, Any]:
    """Returns the description of a waveform, as a reference output holds it, for one of `VOICES`."""
    return {"version": VERSION, "seconds": SECONDS, "sampling_rate": sampling_rate, "parameters": voice}


def waveform(description: Mapping[str, Any]) -> np.ndarray:
    """Returns the samples, float32 `(samples,)`, of a waveform as `describe_waveform` describes it.

    Raises:
        ReferenceOutputError: an unknown version, or values out of range.
    """
    version = description.get("version", description.get("formula"))
    if version not in (VERSION, FORMULA_BEFORE_VERSIONS):
        raise ReferenceOutputError(
            f"The waveform of the reference output has the version {version!r}, and this version of whisper-ser reads "
            f"version {VERSION}: use the version of whisper-ser that saved the model, or a newer one."
        )
    of = _parameters(description)
    time = np.arange(round(description["seconds"] * description["sampling_rate"])) / description["sampling_rate"]
    phase = 2 * np.pi * (of["p"] * time + of["w"] * np.sin(2 * np.pi * of["v"] * time))
    harmonics = sum(np.sin(k * phase) / k for k in range(1, of["h"] + 1))
    return (of["a"] * (1 + np.sin(2 * np.pi * of["s"] * time)) / 2 * harmonics).astype(np.float32)


def _parameters(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the parameters of the formula; raises `ReferenceOutputError` for values out of range."""
    of: Any = description.get("parameters")
    values: list[Any] = [of.get(name) for name in "ashpwv"] if isinstance(of, Mapping) else [None]
    values += [description.get("seconds"), description.get("sampling_rate")]
    fits = all(_is_number(value) and abs(value) <= MAX_SAMPLING_RATE for value in values) and isinstance(of, Mapping)
    if not fits or not (
        isinstance(of["h"], int)
        and 1 <= of["h"] <= MAX_HARMONICS
        and 0 < description["seconds"] <= MAX_SECONDS
        and description["sampling_rate"] * description["seconds"] >= 1
        and description["sampling_rate"] >= 1000
    ):
        raise ReferenceOutputError("The reference output describes an impossible waveform: it is damaged.")
    return of


def is_reference_output(found: Any) -> bool:
    """Returns whether JSON, as read, has the fields of a reference output: waveform, probabilities and tolerance."""
    return (
        isinstance(found, Mapping)
        and isinstance(found.get("waveform"), Mapping)
        and isinstance(found.get("probabilities"), Mapping)
        and all(_is_number(value) for value in found["probabilities"].values())
        and _is_number(found.get("tolerance"))
        and 0 <= found["tolerance"] <= MAX_TOLERANCE
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_probabilities(
    found: Mapping[str, float], reference: Mapping[str, Any], model: str, problem: str = NOT_AS_SAVED
) -> float:
    """Returns the largest difference of a probability from the expected one.

    Args:
        found: probability of each label.
        reference: the reference output.
        model: its name, for the message.
        problem: what a difference means, for the message.

    Raises:
        ReferenceOutputError: other labels, or a difference beyond the tolerance of the reference output.
    """
    expected, tolerance = reference["probabilities"], reference["tolerance"]
    if set(found) != set(expected):
        raise ReferenceOutputError(f"{model} has the labels {', '.join(found)}; expected {', '.join(expected)}.")
    differences = [abs(found[label] - expected[label]) for label in expected]
    if not all(math.isfinite(value) for value in differences) or max(differences) > tolerance:
        raise ReferenceOutputError(
            f"{model} gives {_format(found)} for the reference waveform; expected {_format(expected)} within "
            f"{tolerance:g}. {problem}"
        )
    return max(differences)


def _format(probabilities: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {probability:.4f}" for label, probability in probabilities.items())
