"""A model as one ONNX file, as `whisper-ser export onnx` writes it: waveform in, probabilities out."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisper_ser.errors import ExportError, InferenceError
from whisper_ser.inference.engines.session import open_session
from whisper_ser.inference.reference_waveform import (
    NOT_AS_SAVED,
    WRONG_INTEGERS,
    check_probabilities,
    is_reference_output,
    waveform,
)
from whisper_ser.io import file_sha256

SUFFIX = ".onnx"
AUDIO, LENGTHS, PROBABILITIES = "audio", "lengths", "probabilities"
"""Names of the graph's inputs and of its output."""
FORMAT = "1"
"""Of the metadata below. A reader refuses what it does not know."""
FORMAT_KEY = "whisper_ser_format"
METADATA = ("labels", "sampling_rate", "chunk_seconds", "pad_to_seconds", "precision", "model", "known_answer")
"""What travels with a graph, each as JSON."""


class ExportedModel:
    """An exported model, ready for use on whole recordings.

    Args:
        path: a file that `whisper-ser export onnx` wrote.
        threads: that work on one batch; as many as cores by default.
        exact: as in `open_session`.

    Raises:
        ExportError: no ONNX Runtime, no such file, or one that is none of ours.
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None, exact: bool = False) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ExportError(f"There is no file {path}: give one that `whisper-ser export onnx` wrote.")
        self._session = open_session(self.path, threads=threads, exact=exact)
        self.metadata = read_metadata(self._session.get_modelmeta().custom_metadata_map, self.path)

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the probabilities."""
        return self.metadata["labels"]

    @property
    def sampling_rate(self) -> int:
        """Hertz of the audio that the graph reads."""
        return self.metadata["sampling_rate"]

    @property
    def identity(self) -> str:
        """SHA-256 of the file."""
        return file_sha256(self.path)

    def probabilities(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Returns `(clips, labels)` for mono clips `(samples,)` at `sampling_rate`, run together."""
        lengths = np.array([len(clip) for clip in clips], dtype=np.int64)
        audio = np.zeros((len(clips), lengths.max()), dtype=np.float32)
        for row, clip in zip(audio, clips, strict=True):
            row[: len(clip)] = clip
        (probabilities,) = self._session.run([PROBABILITIES], {AUDIO: audio, LENGTHS: lengths})
        if not np.isfinite(probabilities).all():
            raise InferenceError(f"The answer of {self.path} is not a number: export the model again.")
        return probabilities

    def verify(self) -> float:
        """Returns the largest difference of a probability from the reference output that the file carries.

        Raises:
            ReferenceOutputError: too large: a damaged file, or a processor that multiplies 8-bit integers wrongly.
        """
        known = self.metadata["known_answer"]
        (found,) = self.probabilities([waveform(known["waveform"])])
        probabilities = dict(zip(self.labels, found.tolist(), strict=True))
        problem = WRONG_INTEGERS if self.metadata["precision"] == "int8" else NOT_AS_SAVED
        return check_probabilities(probabilities, known, str(self.path), problem)


def is_exported(model: str | os.PathLike) -> bool:
    """Returns whether this names an exported file, not a folder or a Hub id."""
    return Path(model).suffix == SUFFIX and not Path(model).is_dir()


def read_metadata(found: dict[str, str], path: Path) -> dict[str, Any]:
    """Returns what travels with a graph of ours.

    Raises:
        ExportError: it is none of ours, or of a later version.
    """
    if FORMAT_KEY not in found:
        raise ExportError(f"{path} is no model that `whisper-ser export onnx` wrote.")
    if found[FORMAT_KEY] != FORMAT:
        raise ExportError(
            f"{path} has format {found[FORMAT_KEY]}, and this version of whisper-ser reads {FORMAT}: update the one "
            "or export anew with the other."
        )
    try:
        metadata = {key: json.loads(found[key]) for key in METADATA}
    except (KeyError, ValueError, RecursionError) as error:
        raise ExportError(f"The metadata of {path} are damaged ({error}): export the model again.") from error
    labels = metadata["labels"]
    named = isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
    rate = metadata["sampling_rate"]
    if not named or not is_reference_output(metadata["known_answer"]) or not isinstance(rate, int) or rate < 1000:
        raise ExportError(f"The metadata of {path} are damaged: export the model again.")
    return metadata
