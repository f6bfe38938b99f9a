"""The waveform of a known answer, and how an answer is held against it; needs neither a model nor torch."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from whisper_ser.errors import WhisperSerError

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


LONGEST_SECONDS, HIGHEST_RATE, MOST_HARMONICS = 60, 192_000, 100
"""That a known answer may ask for: a damaged or hostile one must not take all memory."""
LARGEST_TOLERANCE = 0.05


class KnownAnswerError(WhisperSerError, ValueError):
    """A model that is not the one it says it is, or that has no known answer."""


def waveform(known: Mapping[str, Any]) -> np.ndarray:
    """Returns the samples, float32 `(samples,)`, that the field `waveform` of a known answer describes.

    Raises:
        KnownAnswerError: another formula than this version's, or values that it cannot have.
    """
    if known.get("formula") != FORMULA:
        raise KnownAnswerError(
            f"The known answer has a formula that this version does not know ({known.get('formula')!r}): use the "
            "version of whisper-ser that saved the model, or a newer one."
        )
    of = _checked(known)
    time = np.arange(round(known["seconds"] * known["sampling_rate"])) / known["sampling_rate"]
    phase = 2 * np.pi * (of["p"] * time + of["w"] * np.sin(2 * np.pi * of["v"] * time))
    harmonics = sum(np.sin(k * phase) / k for k in range(1, of["h"] + 1))
    return (of["a"] * (1 + np.sin(2 * np.pi * of["s"] * time)) / 2 * harmonics).astype(np.float32)


def _checked(known: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the parameters of the formula."""
    of: Any = known.get("parameters")
    values: list[Any] = [of.get(name) for name in "ashpwv"] if isinstance(of, Mapping) else [None]
    values += [known.get("seconds"), known.get("sampling_rate")]
    fits = all(_is_number(value) and abs(value) <= HIGHEST_RATE for value in values) and isinstance(of, Mapping)
    if not fits or not (
        isinstance(of["h"], int)
        and 1 <= of["h"] <= MOST_HARMONICS
        and 0 < known["seconds"] <= LONGEST_SECONDS
        and known["sampling_rate"] * known["seconds"] >= 1
        and known["sampling_rate"] >= 1000
    ):
        raise KnownAnswerError("The known answer describes a waveform that cannot be: it is damaged.")
    return of


def is_known_answer(known: Any) -> bool:
    """Returns whether a known answer, as read, has a waveform, probabilities and a tolerance, whatever they say."""
    return (
        isinstance(known, Mapping)
        and isinstance(known.get("waveform"), Mapping)
        and isinstance(known.get("probabilities"), Mapping)
        and all(_is_number(value) for value in known["probabilities"].values())
        and _is_number(known.get("tolerance"))
        and 0 <= known["tolerance"] <= LARGEST_TOLERANCE
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
