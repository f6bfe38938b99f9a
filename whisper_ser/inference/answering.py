"""The models that answer for recordings: on torch, packed where that is faster, or exported and on ONNX Runtime."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from whisper_ser.checksums import file_sha256
from whisper_ser.errors import InferenceError
from whisper_ser.export.runner import OnnxModel
from whisper_ser.features import digest_weights
from whisper_ser.inference.recognizer import Recognizer, load_model
from whisper_ser.inference.speed import optimised

EXPORTED = ".onnx"


class ExportedRecognizer:
    """A file that `whisper-ser export onnx` wrote, with that of a `Recognizer` which answers for whole recordings."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model

    @property
    def path(self) -> Path:
        return self._model.path

    @property
    def labels(self) -> list[str]:
        return self._model.labels

    @property
    def sampling_rate(self) -> int:
        """Hertz of the audio that the model reads."""
        return self._model.sampling_rate

    def probabilities(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Returns `(clips, labels)` for mono clips `(samples,)` at `sampling_rate`, run together."""
        probabilities = self._model.probabilities(clips)
        if not np.isfinite(probabilities).all():
            raise InferenceError(f"The answer of {self._model.path} is not a number: export the model again.")
        return probabilities

    def identity(self) -> str:
        """Returns the SHA-256 of the file."""
        return file_sha256(self._model.path)


Answering = Recognizer | ExportedRecognizer


def answering(
    model: str | os.PathLike | OnnxModel | Answering,
    device: str | torch.device | None = None,
    precision: str | None = None,
) -> Answering:
    """Returns the model, ready to answer.

    Args:
        model: a folder, a Hub id or an exported file, or what was loaded before, which stays as it is.
        device: where it runs; left out, on a GPU if there is one.
        precision: on a CPU, `"float32"` (the default), packed: equal to the saved model but for rounding; or `"int8"`,
            faster and less exact. An exported file has its own.

    Raises:
        InferenceError, ExportError, KnownAnswerError, OSError: the model cannot be used.
        PackingError: `"int8"` on a processor without AVX-512 VNNI, or on a GPU.
    """
    if isinstance(model, Recognizer | ExportedRecognizer):
        return model
    if isinstance(model, OnnxModel):
        return ExportedRecognizer(model)
    if not is_exported(model):
        return packed(load_model(model, device), precision)
    if precision is not None:
        raise InferenceError(
            f"{model} was exported in a precision of its own: leave precision out, or export it with --int8."
        )
    if device is not None and torch.device(device).type != "cpu":
        raise InferenceError(f"{model} runs on a CPU: leave device out, or name the folder of the model.")
    exported = OnnxModel(model, torch.get_num_threads())
    exported.verify()
    return ExportedRecognizer(exported)


def recognizer_of(
    model: str | os.PathLike | OnnxModel | Answering,
    device: str | torch.device | None = None,
    precision: str | None = None,
) -> Recognizer:
    """As `answering`, where frames are asked for; an exported model, which tells of no frames, is an error."""
    if isinstance(model, Recognizer):
        return model
    if isinstance(model, OnnxModel | ExportedRecognizer) or is_exported(model):
        name = model.path if isinstance(model, OnnxModel | ExportedRecognizer) else model
        raise InferenceError(
            f"{name} is an exported model, which answers for whole recordings only: name the folder of the model."
        )
    return packed(load_model(model, device), precision)


def is_exported(model: str | os.PathLike) -> bool:
    """Whether this names an exported file, not a folder or a Hub id."""
    return Path(model).suffix == EXPORTED and not Path(model).is_dir()


def packed(recognizer: Recognizer, precision: str | None = None) -> Recognizer:
    """Returns the recognizer with the fastest form of its model on this machine."""
    return replace(recognizer, model=optimised(recognizer.model, precision or "float32"))


def identity(recognizer: Answering) -> str:
    """Returns a SHA-256 of all that the answers of a model depend on. Of `Recognizer`, one that is not packed."""
    if isinstance(recognizer, ExportedRecognizer):
        return recognizer.identity()
    digest = hashlib.sha256()
    digest_weights(digest, recognizer.model)
    digest.update(recognizer.model.config.to_json_string().encode())
    digest.update(recognizer.extractor.to_json_string().encode())
    return digest.hexdigest()
