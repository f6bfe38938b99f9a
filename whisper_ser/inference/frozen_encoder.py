"""The encoder of a model that is not saved yet, ready to encode many utterances."""

import json
from collections.abc import Sequence

import numpy as np

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.inference.encoding import encode
from whisper_ser.inference.engines import Encoder
from whisper_ser.inference.engines.graphs import ENCODER_PREFIX, find_graphs
from whisper_ser.inference.engines.onnx_engine import OnnxEncoder
from whisper_ser.inference.engines.torch_engine import TorchEngine
from whisper_ser.inference.model import settings_of, torch_weights


class FrozenEncoder:
    """Encodes clips where a model is: on ONNX Runtime on a CPU, else with torch.

    Args:
        model: of torch.
        extractor: that feeds it.
        layers: encoder layers to be read, from 1, ascending, at most the model's `layer_index`.
    """

    def __init__(
        self, model: WhisperForEmotionClassification, extractor: WhisperSerFeatureExtractor, layers: Sequence[int]
    ) -> None:
        self._settings = settings_of(model, extractor)
        self._module, self._layers = model.whisper_ser.encoder, layers
        self._encoder: Encoder
        if model.device.type == "cpu":
            # Which head reads the layers does not matter to the encoder.
            read = {"layer_index": layers[-1], "layer_indices": list(layers), "layer_mixing": "concat"}
            config = json.loads(model.config.to_json_string())
            graphs = find_graphs({**config, **read, "ensemble": None}, names=["encoder"])
            self._encoder = OnnxEncoder(graphs["encoder"], self._weights())
        else:
            self._encoder = TorchEngine(model)

    def states(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the states `(layers, frames, width)` of mono clips `(samples,)` at the model's sampling rate.

        `frame_averaging` encoder frames make one frame of the states.
        """
        mels = [self._settings.log_mel(clip) for clip in clips]
        parts: list[list[np.ndarray]] = [[] for _ in clips]
        with self._module.reading(self._layers):
            for stretches in encode(mels, self._encoder, self._settings.chunk_frames, self._settings.frame_averaging):
                for clip, states in stretches:
                    parts[clip].append(states)
        return [np.concatenate(of_clip, axis=1) for of_clip in parts]

    def _weights(self) -> dict[str, np.ndarray]:
        """Returns the weights up to the highest layer that is read, by their names in the model."""
        top, there = self._layers[-1], len(self._module.layers)
        parts = ["conv1.", "conv2.", "embed_positions.", *(f"layers.{index}." for index in range(top))]
        if top == there:
            parts.append("layer_norm.")
        return {
            ENCODER_PREFIX + name: tensor
            for name, tensor in torch_weights(self._module).items()
            if name.startswith(tuple(parts))
        }
