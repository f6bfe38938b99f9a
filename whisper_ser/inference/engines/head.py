"""Standardisation, layer mixing, projector, pooling and classifier in a graph."""

from collections.abc import Callable

import numpy as np
from torch import nn

from modeling_whisper_ser import WhisperForEmotionClassification
from modeling_whisper_ser.modeling_whisper_ser import HeadParts, Member, WhisperSerModel
from modeling_whisper_ser.pooling_whisper_ser import (
    AttendedLayers,
    AttentivePooling,
    JoinedLayers,
    MeanPooling,
    QKVPooling,
    StatisticsPooling,
    WeightedLayers,
)
from whisper_ser.errors import ExportError
from whisper_ser.inference.engines.layers import array, linear, norm
from whisper_ser.inference.engines.nodes import Nodes

LAYER_NORM_EPSILON = 1e-5
"""Of torch's functional LayerNorm, which mixings use."""
VARIANCE_EPSILON = 1e-6
"""Of the poolings' deviations."""


def averaged(nodes: Nodes, states: str, frames: str, group: int) -> tuple[str, str]:
    """Returns the mean of every `group` frames `(batch, groups, width)`, the last perhaps smaller, and their number.

    Args:
        states: `(batch, frames, width)`.
        frames: real ones of each clip `(batch,)`.
    """
    groups = nodes.divided_up(frames, group)
    total = nodes.size(states, 1)
    missing = nodes.op("Sub", nodes.op("Mul", nodes.divided_up(total, group), group), total)
    real = _mask(nodes, frames, total)
    padded = nodes.op("Pad", nodes.op("Mul", states, real), nodes.shape(0, 0, 0, 0, missing, 0), 0.0)
    width = nodes.size(states, 2)
    sums = nodes.op("ReduceSum", nodes.op("Reshape", padded, nodes.shape(0, -1, group, width)), [2], keepdims=0)
    begin = nodes.op("Mul", nodes.count_to(nodes.size(sums, 1)), group)
    counts = nodes.op("Min", nodes.op("Sub", nodes.op("Unsqueeze", frames, [1]), begin), group)
    counts = nodes.op("Cast", nodes.op("Max", counts, 1), to=1)
    return nodes.op("Div", sums, nodes.op("Unsqueeze", counts, [2])), groups


def project(nodes: Nodes, layers: list[str], model: WhisperSerModel) -> str:
    """Returns the projected frames `(..., frame_width)` of the states `(..., width)` of each layer read."""
    if model.config.channel_standardisation:
        scale = array(model.standardisation.deviation.reciprocal())
        shift = -array(model.standardisation.mean) * scale
        layers = [nodes.op("Add", nodes.op("Mul", states, scale[i]), shift[i]) for i, states in enumerate(layers)]
    of_heads = [_projected(nodes, layers, head) for head in model.heads]
    return of_heads[0] if len(of_heads) == 1 else nodes.op("Concat", *of_heads, axis=-1)


def _projected(nodes: Nodes, layers: list[str], head: HeadParts) -> str:
    if isinstance(head, Member):
        layers = [layers[row] for row in head.rows]
    mixed = _mixed(nodes, layers, head.mixing)
    if head.pools_states:
        return mixed
    weight, bias = linear(head.projector)
    return norm(nodes, nodes.op("Add", nodes.op("MatMul", mixed, weight), bias), head.projector_norm)


def _mixed(nodes: Nodes, layers: list[str], mixing: nn.Module) -> str:
    if isinstance(mixing, JoinedLayers):
        return layers[0] if len(layers) == 1 else nodes.op("Concat", *layers, axis=-1)
    if not isinstance(mixing, WeightedLayers | AttendedLayers):
        raise ExportError(f"{type(mixing).__name__} has no form in ONNX here.")
    ones, zeros = np.ones(mixing.width, np.float32), np.zeros(mixing.width, np.float32)
    normalised = [
        nodes.op("LayerNormalization", states, ones, zeros, axis=-1, epsilon=LAYER_NORM_EPSILON) for states in layers
    ]
    if isinstance(mixing, WeightedLayers):
        shares: list[str | float] = mixing.layer_weights.softmax(0).tolist()
    else:
        weight = array(mixing.score.weight).T
        scores = [
            nodes.op("Add", nodes.op("MatMul", states, weight), bias)
            for states, bias in zip(normalised, mixing.layer_bias.tolist(), strict=True)
        ]
        softmax = nodes.op("Softmax", nodes.op("Concat", *scores, axis=-1), axis=-1)
        shares = [nodes.cut(softmax, i, i + 1, axis=-1) for i in range(len(layers))]
    weighted = [nodes.op("Mul", states, share) for states, share in zip(normalised, shares, strict=True)]
    return weighted[0] if len(weighted) == 1 else nodes.op("Sum", *weighted)


def classify(nodes: Nodes, vectors: str, frames: str, model: WhisperForEmotionClassification) -> str:
    """Returns probabilities `(batch, labels)`.

    Args:
        vectors: projected frames `(batch, frames, frame_width)`; anything finite behind a shorter clip.
        frames: real ones of each clip `(batch,)`.
    """
    real = _mask(nodes, frames, nodes.size(vectors, 1))
    heads = model.whisper_ser.heads
    logits, begin = [], 0
    for head, classifier in zip(heads, model.classifiers, strict=True):
        end = begin + head.frame_width
        own = vectors if len(heads) == 1 else nodes.cut(vectors, begin, end, axis=-1)
        begin = end
        logits.append(nodes.op("Gemm", _pooled(nodes, own, real, head), *linear(classifier)))
    return nodes.op("Softmax", nodes.op("Mul", _joined(nodes, logits), 1 / model.config.temperature), axis=-1)


def _pooled(nodes: Nodes, vectors: str, real: str, head: HeadParts) -> str:
    if type(head.pooling) not in POOLINGS:
        raise ExportError(f"{type(head.pooling).__name__} has no form in ONNX here.")
    pooled = POOLINGS[type(head.pooling)](nodes, vectors, real, head.pooling)
    if head.pools_states:
        pooled = norm(nodes, nodes.op("Gemm", pooled, *linear(head.projector)), head.projector_norm)
    return norm(nodes, pooled, head.pooled_norm) if isinstance(head.pooled_norm, nn.LayerNorm) else pooled


def _joined(nodes: Nodes, logits: list[str]) -> str:
    """Returns the logits of the mean of the heads' probabilities."""
    if len(logits) == 1:
        return logits[0]
    return nodes.op("Log", nodes.op("Mean", *(nodes.op("Softmax", of_head, axis=-1) for of_head in logits)))


def _mask(nodes: Nodes, frames: str, total: str) -> str:
    """Returns 1 on real frames and 0 on others `(batch, total, 1)`."""
    real = nodes.op("Less", nodes.count_to(total), nodes.op("Unsqueeze", frames, [1]))
    return nodes.op("Unsqueeze", nodes.op("Cast", real, to=1), [2])


def _mean(nodes: Nodes, vectors: str, real: str) -> str:
    """Returns the mean over real frames `(batch, 1, d_model)`."""
    count = nodes.op("ReduceSum", real, [1], keepdims=1)
    return nodes.op("Div", nodes.op("ReduceSum", nodes.op("Mul", vectors, real), [1], keepdims=1), count)


def _deviation(nodes: Nodes, variance: str) -> str:
    return nodes.op("Sqrt", nodes.op("Add", variance, VARIANCE_EPSILON))


def _pool_mean(nodes: Nodes, vectors: str, real: str, pooling: nn.Module) -> str:
    return nodes.op("Squeeze", _mean(nodes, vectors, real), [1])


def _pool_statistics(nodes: Nodes, vectors: str, real: str, pooling: nn.Module) -> str:
    """Returns standardised statistics `(batch, 2 * frame_width)`."""
    mean = _mean(nodes, vectors, real)
    distance = nodes.op("Sub", vectors, mean)
    variance = _mean(nodes, nodes.op("Mul", distance, distance), real)
    both = nodes.op("Squeeze", nodes.op("Concat", mean, _deviation(nodes, variance), axis=2), [1])
    assert isinstance(pooling, StatisticsPooling)
    return nodes.op("Div", nodes.op("Sub", both, array(pooling.mean)), array(pooling.deviation))


def _pool_attentive(nodes: Nodes, vectors: str, real: str, pooling: nn.Module) -> str:
    assert isinstance(pooling, AttentivePooling)
    weight, bias = linear(pooling.hidden)
    hidden = nodes.op("Tanh", nodes.op("Add", nodes.op("MatMul", vectors, weight), bias))
    # The score weights of all heads in one matrix: row i of head h holds its i-th weight in column h.
    by_head = np.zeros((pooling.heads, pooling.head_dim, pooling.heads), np.float32)
    by_head[np.arange(pooling.heads), :, np.arange(pooling.heads)] = array(pooling.score_weight)
    scores = nodes.op("MatMul", hidden, by_head.reshape(pooling.inner, pooling.heads))
    scores = nodes.op("Add", scores, array(pooling.score_bias))
    return _attended(nodes, vectors, scores, real, pooling)


def _pool_qkv(nodes: Nodes, vectors: str, real: str, pooling: nn.Module) -> str:
    assert isinstance(pooling, QKVPooling)
    queries = [_query(nodes, source, vectors, real, pooling) for source in pooling.sources]
    query = queries[0] if len(queries) == 1 else nodes.op("Concat", *queries, axis=-1)
    query = nodes.op("Reshape", query, [-1, pooling.heads, 1, pooling.head_dim])
    directions = nodes.op("Squeeze", nodes.op("MatMul", query, _by_head(pooling, pooling.key)), [2])
    scores = nodes.op("MatMul", vectors, nodes.op("Transpose", directions, perm=[0, 2, 1]))
    return _attended(nodes, vectors, scores, real, pooling)


def _query(nodes: Nodes, source: str, vectors: str, real: str, pooling: QKVPooling) -> str:
    """Returns the queries of one source `(batch, 1, heads of it * head_dim)`."""
    if source == "learnt":
        learnt = array(pooling.learnt_query)
        return nodes.op("Expand", learnt, nodes.shape(nodes.size(vectors, 0), 1, len(learnt)))
    if source == "mean":
        summary = _mean(nodes, vectors, real)
    else:
        unreal = nodes.op("Mul", nodes.op("Sub", 1.0, real), float(np.finfo(np.float32).min / 2))
        summary = nodes.op("ReduceMax", nodes.op("Add", vectors, unreal), axes=[1], keepdims=1)
    return nodes.op("MatMul", summary, linear(pooling.query[source])[0])  # type: ignore[arg-type]


def _attended(nodes: Nodes, vectors: str, scores: str, real: str, pooling: AttentivePooling | QKVPooling) -> str:
    """Returns the pooled vectors `(batch, d_model)` of scores `(batch, frames, heads)`."""
    scores = nodes.op("Mul", scores, float(pooling.scale))
    if pooling.tanh_scores:
        scores = nodes.op("Tanh", scores)
    unreal = nodes.op("Mul", nodes.op("Sub", 1.0, real), float(np.finfo(np.float32).min / 2))
    scores = nodes.op("Transpose", nodes.op("Add", scores, unreal), perm=[0, 2, 1])
    weights = nodes.op("Softmax", scores, axis=-1)
    if pooling.statistics:
        joined = _mean_and_deviation(nodes, vectors, weights, pooling)
    else:
        # An average commutes with the map to the values.
        means = nodes.op("Unsqueeze", nodes.op("MatMul", weights, vectors), [2])
        joined = nodes.op("MatMul", means, _by_head(pooling, pooling.value).transpose(0, 2, 1).copy())
    flat = nodes.op("Reshape", joined, [-1, pooling.out.in_features])
    return nodes.op("Gemm", flat, *linear(pooling.out))


def _mean_and_deviation(nodes: Nodes, vectors: str, weights: str, pooling: AttentivePooling | QKVPooling) -> str:
    """Returns the weighted mean and deviation of the values of each head `(batch, heads, 1, 2 * head_dim)`."""
    values = nodes.op("MatMul", vectors, linear(pooling.value)[0])
    values = nodes.op("Reshape", values, [0, 0, pooling.heads, pooling.head_dim])
    values = nodes.op("Transpose", values, perm=[0, 2, 1, 3])
    weights = nodes.op("Unsqueeze", weights, [2])
    mean = nodes.op("MatMul", weights, values)
    distance = nodes.op("Sub", values, mean)
    variance = nodes.op("MatMul", weights, nodes.op("Mul", distance, distance))
    return nodes.op("Concat", mean, _deviation(nodes, variance), axis=3)


def _by_head(pooling: AttentivePooling | QKVPooling, module: nn.Linear) -> np.ndarray:
    """Returns the weight of a map to the heads as `(heads, head_dim, d_model)`."""
    return array(module.weight).reshape(pooling.heads, pooling.head_dim, -1)


POOLINGS: dict[type[nn.Module], Callable[[Nodes, str, str, nn.Module], str]] = {
    MeanPooling: _pool_mean,
    StatisticsPooling: _pool_statistics,
    AttentivePooling: _pool_attentive,
    QKVPooling: _pool_qkv,
}
"""What adds each pooling: graph, vectors `(batch, frames, d_model)`, mask `(batch, frames, 1)`, the module."""
