"""Saved models, loaded for use: with torch, or an exported file on ONNX Runtime."""

import copy
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_whisper_ser import (
    ConfigError,
    MissingWeightsError,
    WhisperForEmotionClassification,
    WhisperSerConfig,
    WhisperSerFeatureExtractor,
)
from modeling_whisper_ser.pooling_whisper_ser import Packing
from whisper_ser.errors import CheckpointError, InferenceError, WhisperSerError
from whisper_ser.inference.engines.onnx_runtime import OnnxModel
from whisper_ser.inference.reference_output import check_as_saved
from whisper_ser.inference.speed import optimised
from whisper_ser.io import file_sha256


@dataclass(frozen=True)
class Recognizer:
    """A trained model in evaluation mode, and the extractor that feeds it.

    A frame vector `(frame_width,)` is what the pooling reads of one encoder frame. Whatever is pooled over - a file,
    a window, a segment - is pooled over these vectors, so that one pass of the encoder answers every question.
    """

    model: WhisperForEmotionClassification
    extractor: WhisperSerFeatureExtractor

    @property
    def labels(self) -> list[str]:
        return self.model.config.labels

    @property
    def sampling_rate(self) -> int:
        """Hertz of the audio that the extractor reads."""
        return self.extractor.sampling_rate

    def features(self, clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Returns the model's inputs for mono clips `(samples,)` at `sampling_rate`."""
        return dict(self.extractor(list(clips), sampling_rate=self.sampling_rate, return_tensors="pt"))

    def probabilities(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Returns `(clips, labels)` for mono clips `(samples,)` at `sampling_rate`, run together."""
        return self.classify(self.features(clips))

    @torch.no_grad()
    def classify(self, features: dict[str, torch.Tensor]) -> np.ndarray:
        """Returns probabilities `(batch, labels)`: what the stock pipeline gives."""
        return _softmax(self.model(**self._placed(features)).logits)

    @torch.no_grad()
    def attend(self, features: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns probabilities `(labels,)` of one clip, and attention `(heads, frames)` if the pooling has any."""
        outputs = self.model(**self._placed(features), output_attentions=True)
        attention = outputs.pooling_attentions
        return _softmax(outputs.logits)[0], None if attention is None else attention[0].float().cpu().numpy()

    @torch.no_grad()
    def frame_vectors(self, features: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Returns the frame vectors `(frames, frame_width)` of each clip."""
        vectors, packing = self.model.whisper_ser.frame_vectors(**self._placed(features))
        return list(vectors.split(packing.mask.sum(1).tolist()))

    @torch.no_grad()
    def encoder_states(self, features: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Returns the encoder states `(layers, frames, width)` of each clip, none averaged with others."""
        encoder = copy.copy(self.model.whisper_ser.encoder)
        encoder.config = copy.copy(encoder.config)
        encoder.config.frame_averaging = 1
        states, mask = encoder(**self._placed(features))
        return [clip[:, :frames] for clip, frames in zip(states, mask.sum(1).tolist(), strict=True)]

    @torch.no_grad()
    def project(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the frame vectors `(frames, frame_width)` of encoder states `(layers, frames, width)`."""
        return self.model.whisper_ser.frame_vectors(encoder_hidden_states=states[None])[0]

    @torch.no_grad()
    def pool(self, vectors: torch.Tensor, counts: Sequence[int]) -> np.ndarray:
        """Returns probabilities `(batch, labels)` of joined frame vectors `(frames, frame_width)`, `counts` each."""
        lengths = torch.tensor(counts, device=vectors.device)
        packing = Packing.of(torch.arange(max(counts), device=vectors.device) < lengths[:, None])
        return _softmax(self.model.classify(self.model.whisper_ser.pool_vectors(vectors, packing)))

    def _placed(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        dtypes = {"input_features": self.model.dtype}
        return {name: value.to(self.model.device, dtypes.get(name)) for name, value in features.items()}


def load_model(name_or_path: str | os.PathLike, device: str | torch.device | None = None) -> Recognizer:
    """Returns the model saved in a folder or on the Hub.

    Only weights and settings are read; the classes are those installed here and no code of the folder runs.
    `HF_HUB_OFFLINE=1` keeps to what is on this machine.

    Args:
        name_or_path: a folder that training wrote, or a Hub id.
        device: where it runs; left out, on a GPU if there is one.

    Raises:
        InferenceError: the model is of another kind.
        ReferenceOutputError, ConfigError, MissingWeightsError, OSError: it is damaged, incomplete, or not there.
    """
    model, extractor = load_saved(name_or_path)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Recognizer(model.eval().to(place), extractor)


def _softmax(logits: torch.Tensor) -> np.ndarray:
    probabilities = logits.float().softmax(-1).cpu().numpy()
    if not np.isfinite(probabilities).all():
        raise InferenceError(
            "The model's answer is not a number: its weights are damaged, or too large for half precision. Check it: "
            "whisper-ser verify MODEL."
        )
    return probabilities


TOLD_IN_WORDS = (WhisperSerError, ConfigError, MissingWeightsError, OSError)


def load_saved(
    name_or_path: str | os.PathLike, **fields: Any
) -> tuple[WhisperForEmotionClassification, WhisperSerFeatureExtractor]:
    """Returns the model saved in a folder or on the Hub, and the extractor that feeds it.

    Weights and settings of a folder with a reference output must be those that were saved with it.

    Args:
        name_or_path: a folder that training wrote, or a Hub id.
        **fields: of `WhisperSerConfig` that are set anew.

    Raises:
        InferenceError: the model is of another kind.
        ReferenceOutputError: weights or settings are not those that were saved.
        CheckpointError: a file is damaged.
        ConfigError, MissingWeightsError, OSError: settings that cannot work, weights that are missing, nothing there.
    """
    name = os.path.expanduser(os.fspath(name_or_path))
    try:
        kind = WhisperSerConfig.get_config_dict(name)[0].get("model_type")
        if kind != WhisperSerConfig.model_type:
            raise InferenceError(
                f"{name} is a {kind!r} model, expected {WhisperSerConfig.model_type!r}: give a model that "
                "run_train.py wrote, or its Hub id."
            )
        if Path(name).is_dir():
            check_as_saved(Path(name))
        model = WhisperForEmotionClassification.from_pretrained(name, **fields)
        return model, WhisperSerFeatureExtractor.from_pretrained(name)
    except TOLD_IN_WORDS:
        raise
    except Exception as error:  # damaged JSON and weights fail in as many types as there are libraries that read them
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"{name} cannot be loaded, a file of it is damaged or of something else ({type(error).__name__}: "
            f"{reason}). Fetch or save the model again."
        ) from error


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
        InferenceError, ExportError, ReferenceOutputError, OSError: the model cannot be used.
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


def digest_weights(digest: "hashlib._Hash", module: torch.nn.Module) -> None:
    """Adds names, shapes and values of a module's weights and buffers to a digest."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
