"""The engine on an accelerator: the plain model in torch."""

from collections.abc import Sequence

import numpy as np
import torch

from modeling_whisper_ser import WhisperForEmotionClassification
from modeling_whisper_ser.pooling_whisper_ser import Packing


class TorchEngine:
    """Runs the three parts of a model; see `Engine`.

    Args:
        model: on its device, in any type of floats.
    """

    name = "torch"
    frames_per_pass = 8000

    def __init__(self, model: WhisperForEmotionClassification) -> None:
        self.model = model.eval()

    @property
    def frame_width(self) -> int:
        """Width of a frame vector."""
        return self.model.whisper_ser.vector_width

    @torch.inference_mode()
    def encode(self, features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns states `(layers, chunks, frames, width)`; see `Engine.encode`."""
        alike = (lengths == features.shape[1]).all()
        mask = None if alike else torch.from_numpy(lengths).to(self.model.device)
        return _array(self.model.whisper_ser.encoder.encode_chunks(self._placed(features), mask))

    @torch.inference_mode()
    def frame_vectors(self, states: np.ndarray) -> np.ndarray:
        """Returns frame vectors `(frames, frame_width)` of states `(layers, frames, width)`."""
        return _array(self.model.whisper_ser.frame_vectors(self._placed(states)))

    @torch.inference_mode()
    def pool(self, vectors: np.ndarray, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns probabilities `(batch, labels)` and attention `(batch, heads, longest)`; see `Engine.pool`."""
        packing = Packing.of(torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1))
        packing = Packing(*(part.to(self.model.device) for part in packing))
        pooled, attention = self.model.whisper_ser.pool_vectors(self._placed(vectors), packing)
        probabilities = self.model.classify(pooled).float().softmax(-1)
        return _array(probabilities), None if attention is None else _array(attention)

    def _placed(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.model.device, self.model.dtype)


def _array(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
