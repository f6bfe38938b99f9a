"""The engine on a CPU: the graphs of a model on ONNX Runtime."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisper_ser.errors import CheckpointError, ExportError
from whisper_ser.inference.engines.graphs import ENCODER_PREFIX
from whisper_ser.inference.engines.session import open_session


class OnnxEncoder:
    """Runs the encoder of a model.

    Args:
        graph: file of the encoder's graph.
        weights: the model's tensors, float32, by name; left out for a graph that holds its weights.
        exact: as in `open_session`.

    Raises:
        ExportError: the graph cannot be read, or the weights do not fit it.
        CheckpointError: weights are missing.
    """

    name = "onnxruntime"
    frames_per_pass = 2000

    def __init__(self, graph: Path, weights: Mapping[str, np.ndarray] | None = None, exact: bool = False) -> None:
        # Kept here: the session reads those that it has not packed for its products.
        self._weights = {name: x for name, x in (weights or {}).items() if name.startswith(ENCODER_PREFIX)}
        try:
            self._encoder = open_session(graph, self._weights, exact=exact)
        except ExportError as error:
            # Where a weight is not given, ONNX Runtime looks for a file of it, and says which one it was.
            if absent := re.search(rf"initializer: ({re.escape(ENCODER_PREFIX)}[\w.]+)\. ", str(error)):
                raise _missing([absent[1]]) from error
            raise

    def encode(self, features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns states `(layers, chunks, frames, width)`; see `Engine.encode`."""
        return self._encoder.run(None, {"features": features, "lengths": lengths})[0]


class OnnxEngine(OnnxEncoder):
    """Runs all parts of a model; see `Engine`.

    Args:
        graphs: the files of the graphs, by name.
        weights: the model's tensors, float32, by name.
        temperature: of the probabilities.
        precision: `"int8"` where the encoder's graph holds its weights.
        exact: as in `open_session`.

    Raises:
        ExportError: a graph cannot be read, or the weights do not fit it.
        CheckpointError: weights are missing.
    """

    def __init__(
        self,
        graphs: Mapping[str, Path],
        weights: Mapping[str, np.ndarray],
        temperature: float,
        precision: str = "float32",
        exact: bool = False,
    ) -> None:
        super().__init__(graphs["encoder"], weights if precision == "float32" else None, exact)
        self._frame_vectors = _HeadGraph(graphs["frame_vectors"], weights)
        self._pooling = _HeadGraph(graphs["pooling"], weights)
        self._temperature = np.array(temperature, np.float32)

    @property
    def frame_width(self) -> int:
        """Width of a frame vector."""
        return self._frame_vectors.session.get_outputs()[0].shape[1]

    def frame_vectors(self, states: np.ndarray) -> np.ndarray:
        """Returns frame vectors `(frames, frame_width)` of states `(layers, frames, width)`."""
        return self._frame_vectors.run(states=states)[0]

    def pool(self, vectors: np.ndarray, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns probabilities `(batch, labels)` and attention `(batch, heads, longest)`; see `Engine.pool`."""
        lengths = np.array(counts, np.int64)
        padded = np.zeros((len(lengths), lengths.max(), vectors.shape[1]), np.float32)
        padded[np.arange(lengths.max()) < lengths[:, None]] = vectors
        outputs = self._pooling.run(vectors=padded, counts=lengths, temperature=self._temperature)
        return outputs[0], outputs[1] if len(outputs) > 1 else None


class _HeadGraph:
    """A graph that takes weights and standardisation as inputs, under their names in the model."""

    def __init__(self, graph: Path, weights: Mapping[str, np.ndarray]) -> None:
        self.session: Any = open_session(graph)
        names = [one.name for one in self.session.get_inputs() if "." in one.name]
        if missing := {name for name in names if name not in weights}:
            raise _missing(missing)
        self._weights = {name: np.ascontiguousarray(weights[name]) for name in names}

    def run(self, **inputs: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, self._weights | inputs)


def _missing(names: Iterable[str]) -> CheckpointError:
    return CheckpointError(f"The model lacks the weights {', '.join(sorted(names))}: download or save it again.")
