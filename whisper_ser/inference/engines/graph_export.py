"""Graphs made of the plain model by torch's exporter. This file alone of the engines needs torch and onnx.

The graphs hold no weights. Those of the encoder are external data, those of the head are inputs, both under the names
that they have in `model.safetensors`: a graph follows from the architecture alone, the weights of a saved model lie on
the disk once, and a graph fits every model of its architecture, with other standardisations, too.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import onnx
import torch
from torch import nn
from torch.func import functional_call

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig
from modeling_whisper_ser.encoder_whisper_ser import WhisperSerEncoder

Function = Callable[..., Any]


class Padded(NamedTuple):
    """A `Packing` of frames that are padded, as a graph has them: every utterance takes `longest` frames.

    Attributes:
        mask: `(batch, longest)`, true on real frames.
    """

    mask: torch.Tensor

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """`(batch * longest, ...)` -> `(batch, longest, ...)`."""
        return packed.unflatten(0, self.mask.shape)

    def mean(self, packed: torch.Tensor) -> torch.Tensor:
        """`(batch * longest, channels)` -> the mean over the real frames of each utterance `(batch, channels)`."""
        shares = self.mask / self.mask.sum(1, keepdim=True)
        return (shares.unsqueeze(1) @ self.pad(packed)).squeeze(1)

    def max(self, packed: torch.Tensor) -> torch.Tensor:
        """`(batch * longest, channels)` -> the maximum over the real frames of each utterance `(batch, channels)`."""
        return self.pad(packed).masked_fill(~self.mask.unsqueeze(2), float("-inf")).amax(1)


def encode(model: WhisperForEmotionClassification, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Returns the states `(layers, chunks, frames, width)` of chunks, see `WhisperSerEncoder.encode_chunks`."""
    return model.whisper_ser.encoder.encode_chunks(features, lengths)


def frame_vectors(model: WhisperForEmotionClassification, states: torch.Tensor) -> torch.Tensor:
    """Returns the frame vectors `(frames, frame_width)` of states `(layers, frames, width)`."""
    return model.whisper_ser.frame_vectors(states)


def pool(
    model: WhisperForEmotionClassification, vectors: torch.Tensor, counts: torch.Tensor, temperature: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Returns probabilities `(batch, labels)`, and attention `(batch, heads, longest)` if the pooling has any.

    Args:
        model: with a temperature of 1.
        vectors: frame vectors `(batch, longest, frame_width)`, finite behind a shorter utterance.
        counts: real frames of each utterance `(batch,)`.
        temperature: `()`.
    """
    packing = Padded(torch.arange(vectors.shape[1]) < counts.unsqueeze(1))
    pooled, attention = model.whisper_ser.pool_vectors(vectors.flatten(0, 1), packing)  # type: ignore[arg-type]
    probabilities = (model.classify(pooled) / temperature).softmax(-1)
    return (probabilities,) if attention is None else (probabilities, attention)


def encoder_graph(config: WhisperSerConfig) -> onnx.ModelProto:
    """Returns the graph of `encode`; its weights are external data."""
    model = _Holder()
    model.whisper_ser = _Holder()
    model.whisper_ser.encoder = _without_memory(lambda: WhisperSerEncoder(config))
    inputs = {"features": torch.zeros(3, 22, config.encoder_config.num_mel_bins), "lengths": torch.tensor([22, 13, 5])}
    axes = {"features": {0: "chunks", 1: "mel_frames"}, "lengths": {0: "chunks"}}
    return _with_external_weights(_exported(model, encode, inputs, axes, ["states"]))


def frame_vectors_graph(config: WhisperSerConfig) -> onnx.ModelProto:
    """Returns the graph of `frame_vectors`; weights and standardisation are inputs."""
    states = torch.zeros(len(config.layer_indices), 7, config.encoder_config.d_model)
    return _exported(_head(config), frame_vectors, {"states": states}, {"states": {1: "frames"}}, ["vectors"])


def pooling_graph(config: WhisperSerConfig) -> onnx.ModelProto:
    """Returns the graph of `pool`; weights, standardisation of statistics, and temperature are inputs."""
    head = _head(config)
    inputs = {
        "vectors": torch.zeros(3, 7, head.whisper_ser.vector_width),
        "counts": torch.tensor([7, 5, 2]),
        "temperature": torch.tensor(1.0),
    }
    axes: dict[str, dict[int, str]] = {"vectors": {0: "batch", 1: "frames"}, "counts": {0: "batch"}, "temperature": {}}
    return _exported(head, pool, inputs, axes, ["probabilities", "attention"])


GRAPHS: dict[str, Callable[[WhisperSerConfig], onnx.ModelProto]] = {
    "encoder": encoder_graph,
    "frame_vectors": frame_vectors_graph,
    "pooling": pooling_graph,
}


class _Holder(nn.Module):
    """Stands where a model would have its encoder, so that the names of the weights are the model's."""

    encoder: nn.Module
    whisper_ser: "_Holder"


class _Call(nn.Module):
    """A function of a model, as a module."""

    def __init__(self, model: nn.Module, function: Function) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self.model, *inputs)


class _WithWeights(nn.Module):
    """A call whose weights are given: the exporter can neither fold nor merge what it does not know."""

    def __init__(self, call: _Call) -> None:
        super().__init__()
        self.__dict__["call"] = call  # not as a module, whose weights would be the graph's own

    def forward(self, weights: dict[str, torch.Tensor], *inputs: torch.Tensor) -> Any:
        return functional_call(self.__dict__["call"], weights, inputs)


def _head(config: WhisperSerConfig) -> WhisperForEmotionClassification:
    config = WhisperSerConfig.from_dict(config.to_dict(), temperature=1.0)
    return _without_memory(lambda: WhisperForEmotionClassification(config, with_encoder=False)).eval()


def _without_memory(build: Callable[[], Any]) -> Any:
    """Returns a module whose weights take no memory before they are written to, which the exporter never does."""
    with torch.device("meta"):
        module = build()
    return module.to_empty(device="cpu").eval()


def _exported(
    model: nn.Module,
    function: Function,
    inputs: Mapping[str, torch.Tensor],
    axes: Mapping[str, Mapping[int, str]],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Returns the graph of `function(model, *inputs)`, the weights it reads being inputs, too.

    Args:
        axes: names of the dimensions whose size is open, of each input.
        outputs: names; the last ones may not be there.
    """
    call = _Call(model, function)
    weights = {**dict(call.named_parameters()), **dict(call.named_buffers())}
    weights = {name: tensor.detach() for name, tensor in weights.items()}
    with quiet():
        program: Any = torch.onnx.export(
            _WithWeights(call).eval(),
            (weights, *inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=[*(name.removeprefix("model.") for name in weights), *inputs],
            output_names=list(outputs),
            dynamic_shapes=(dict.fromkeys(weights), tuple(axes[name] for name in inputs)),
        )
    graph = program.model_proto
    read = {name for node in graph.graph.node for name in node.input}
    kept = [one for one in graph.graph.input if one.name in read]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    return without_source(graph)


def without_source(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a graph without the lines of source that each node came from, the larger part of it."""
    pending = [graph.graph]
    while pending:
        part = pending.pop()
        for one in (*part.node, *part.value_info, *part.input, *part.output, *part.initializer):
            del one.metadata_props[:]
        pending += [attribute.g for node in part.node for attribute in node.attribute if attribute.HasField("g")]
    return graph


def _with_external_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a graph whose inputs with the name of a weight became initializers that lie elsewhere."""
    inputs = list(graph.graph.input)
    del graph.graph.input[:]
    for one in inputs:
        if not one.name.startswith("whisper_ser."):
            graph.graph.input.append(one)
            continue
        tensor = graph.graph.initializer.add(name=one.name, data_type=onnx.TensorProto.FLOAT)
        tensor.dims.extend(dim.dim_value for dim in one.type.tensor_type.shape.dim)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="model.safetensors")
    return graph


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporter's advice to developers off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
