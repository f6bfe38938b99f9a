"""Whisper's convolutions and layers in a graph: chunks of log-mel to the states that are read."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from modeling_whisper_ser.encoder_whisper_ser import WhisperSerEncoder
from whisper_ser.inference.engines.nodes import Nodes
from whisper_ser.inference.engines.products import Products


def encode(
    nodes: Nodes, mels: str, inside: str, length: str, longest: str, encoder: WhisperSerEncoder, products: Products
) -> list[str]:
    """Adds the encoder to a graph.

    Args:
        mels: chunks of log-mel `(chunks, 2 * longest + 2, channels)`, zeros before and behind.
        inside: which rows but the first and the last are real, as 1 and 0, `(chunks, 2 * longest, 1)`.
        length: encoder frames of each chunk `(chunks,)`.
        longest: the most of them `(1,)`.

    Returns:
        The states of the layers read, `(chunks * longest, width)` each.
    """
    hidden = _convolved(nodes, mels, inside, longest, encoder, products)
    real = nodes.op("Less", nodes.count_to(longest), nodes.op("Unsqueeze", length, [1, 2, 3]))
    unheard = nodes.op("Where", real, 0.0, float(np.finfo(np.float32).min / 2))
    read = []
    for index, layer in enumerate(encoder.layers, start=1):
        hidden = _layer(nodes, hidden, unheard, longest, layer, f"layers.{index - 1}", products)
        if index in encoder.layer_indices:
            above = encoder.layer_norm if index == len(encoder.layers) else None
            read.append(hidden if above is None else norm(nodes, hidden, above))
    return read


def _convolved(
    nodes: Nodes, mels: str, inside: str, longest: str, encoder: WhisperSerEncoder, products: Products
) -> str:
    """Returns frames with their positions `(chunks * longest, width)`; convolutions are products of joined rows."""
    channels, width = encoder.conv1.in_channels, encoder.conv1.out_channels
    rows = nodes.op("Mul", longest, 2)
    shifted = [nodes.cut(mels, step, nodes.op("Add", rows, step), axis=1) for step in range(3)]
    joined = nodes.op("Reshape", nodes.op("Concat", *shifted, axis=2), [-1, 3 * channels])
    hidden = gelu(nodes, nodes.op("Gemm", joined, *_convolution(encoder.conv1)))
    hidden = nodes.op("Mul", nodes.op("Reshape", hidden, nodes.shape(-1, rows, width)), inside)
    # Frame t is made of rows 2t - 1, 2t and 2t + 1.
    pairs = nodes.op("Reshape", hidden, nodes.shape(-1, longest, 2 * width))
    odd = nodes.cut(pairs, width, 2 * width, axis=2)
    before = nodes.op("Pad", nodes.cut(odd, 0, -1, axis=1), [0, 1, 0, 0, 0, 0], 0.0)
    joined = nodes.op("Reshape", nodes.op("Concat", before, pairs, axis=2), [-1, 3 * width])
    hidden = gelu(nodes, products.add(nodes, joined, *_convolution(encoder.conv2), "conv2"))
    positions = array(encoder.embed_positions.weight)[: encoder.config.chunk_frames]
    hidden = nodes.op("Reshape", hidden, nodes.shape(-1, longest, width))
    hidden = nodes.op("Add", hidden, nodes.cut(positions, 0, longest, axis=0))
    return nodes.op("Reshape", hidden, [-1, width])


def _layer(nodes: Nodes, hidden: str, unheard: str, longest: str, layer: Any, name: str, products: Products) -> str:
    """`(chunks * longest, width)` -> the same."""
    attention = layer.self_attn
    normed = norm(nodes, hidden, layer.self_attn_layer_norm)
    joint = products.add(nodes, normed, *_joint(attention), f"{name}.self_attn.q_proj")
    attended = _attended(nodes, joint, unheard, longest, attention.num_heads, attention.head_dim)
    out = products.add(nodes, attended, *linear(attention.out_proj), f"{name}.self_attn.out_proj")
    hidden = nodes.op("Add", hidden, out)
    normed = norm(nodes, hidden, layer.final_layer_norm)
    (grow, grow_bias), (shrink, shrink_bias) = linear(layer.fc1), linear(layer.fc2)
    order = products.order(f"{name}.fc2", len(shrink))
    grown = gelu(nodes, products.add(nodes, normed, grow[:, order], grow_bias[order], f"{name}.fc1"))
    return nodes.op("Add", hidden, products.add(nodes, grown, shrink[order], shrink_bias, f"{name}.fc2"))


def _attended(nodes: Nodes, joint: str, unheard: str, longest: str, heads: int, head_dim: int) -> str:
    """Returns attention within each chunk `(chunks * longest, width)` of scaled queries, keys and values, joined."""
    shape = nodes.shape(-1, longest, heads, head_dim)
    parts = [nodes.cut(joint, i * heads * head_dim, (i + 1) * heads * head_dim, axis=1) for i in range(3)]
    query, key, value = (nodes.op("Reshape", part, shape) for part in parts)
    query, value = (nodes.op("Transpose", x, perm=[0, 2, 1, 3]) for x in (query, value))
    scores = nodes.op("MatMul", query, nodes.op("Transpose", key, perm=[0, 2, 3, 1]))
    weights = nodes.op("Softmax", nodes.op("Add", scores, unheard), axis=-1)
    attended = nodes.op("Transpose", nodes.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    return nodes.op("Reshape", attended, [-1, heads * head_dim])


def gelu(nodes: Nodes, x: str) -> str:
    """Adds the exact GELU in the form that ONNX Runtime makes one operator of."""
    erf = nodes.op("Erf", nodes.op("Div", x, math.sqrt(2)))
    return nodes.op("Mul", nodes.op("Mul", x, nodes.op("Add", erf, 1.0)), 0.5)


def norm(nodes: Nodes, x: str, module: nn.LayerNorm) -> str:
    """Adds a LayerNorm over the last axis."""
    return nodes.op("LayerNormalization", x, array(module.weight), array(module.bias), axis=-1, epsilon=module.eps)


def linear(module: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Returns weight `(in, out)` and bias `(out,)`."""
    bias = np.zeros(module.out_features, np.float32) if module.bias is None else array(module.bias)
    return array(module.weight).T.copy(), bias


def array(tensor: torch.Tensor) -> np.ndarray:
    """Returns a tensor as float32."""
    return tensor.detach().float().numpy()


def _joint(attention: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns weight `(width, 3 * width)` and bias of queries, keys and values as one, queries scaled."""
    scale = np.float32(attention.head_dim**-0.5)
    (query, query_bias), *others = (linear(x) for x in (attention.q_proj, attention.k_proj, attention.v_proj))
    parts = [(query * scale, query_bias * scale), *others]
    return np.concatenate([weight for weight, _ in parts], axis=1), np.concatenate([bias for _, bias in parts])


def _convolution(module: nn.Conv1d) -> tuple[np.ndarray, np.ndarray]:
    """Returns weight `(3 * in, out)`, for three rows side by side, and bias."""
    weight = array(module.weight).transpose(2, 1, 0).reshape(-1, module.out_channels)
    return weight, np.zeros(module.out_channels, np.float32) if module.bias is None else array(module.bias)
