"""What runs a model: ONNX Runtime on a CPU, torch on an accelerator."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Encoder(Protocol):
    """The encoder of a model, on chunks of log-mel.

    Attributes:
        name: of the library that runs it.
        frames_per_pass: encoder frames to be given at a time, which bounds memory.
    """

    name: str
    frames_per_pass: int

    def encode(self, features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns the states `(layers, chunks, frames, width)` of the layers read, anything behind a shorter chunk.

        Args:
            features: log-mel `(chunks, mel_frames, mels)`, zero behind a shorter chunk.
            lengths: real mel frames of each chunk `(chunks,)`, int64.
        """


class Engine(Encoder, Protocol):
    """All parts of a model. Arrays are float32."""

    @property
    def frame_width(self) -> int:
        """Width of a frame vector."""

    def frame_vectors(self, states: np.ndarray) -> np.ndarray:
        """Returns the frame vectors `(frames, frame_width)` of states `(layers, frames, width)`."""

    def pool(self, vectors: np.ndarray, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns probabilities `(batch, labels)`, and attention `(batch, heads, longest)` if the pooling has any.

        Args:
            vectors: frame vectors of all utterances, one behind the other `(frames, frame_width)`.
            counts: how many each has, at least one.
        """
