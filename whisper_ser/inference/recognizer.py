"""A trained model, loaded and ready: log-mel in, frame vectors and probabilities out."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from modeling_whisper_ser.pooling_whisper_ser import Packing
from whisper_ser.errors import InferenceError
from whisper_ser.loading import load_saved


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
        KnownAnswerError, ConfigError, MissingWeightsError, OSError: it is damaged, incomplete, or not there.
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
