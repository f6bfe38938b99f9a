"""The large products of the encoder in a graph: of float32, or of 8-bit integers."""

from collections.abc import Mapping

import numpy as np

from modeling_whisper_ser.packed_encoder_whisper_ser import (
    LOUD_CHANNELS,
    Range,
    activation_ranges,
    typical_voices,
)
from whisper_ser.export.layers import Multiply, float_product
from whisper_ser.export.nodes import Nodes
from whisper_ser.inference.recognizer import Recognizer

PRECISIONS = ("float32", "int8")


def products(recognizer: Recognizer, precision: str) -> Multiply:
    """Returns what adds the large products of a model's encoder to a graph."""
    if precision == "float32":
        return float_product
    encoder = recognizer.model.whisper_ser.encoder
    heard = [recognizer.features([voice])["input_features"][0] for voice in typical_voices(recognizer.sampling_rate)]
    return IntegerProducts(activation_ranges(encoder, heard, margin=1.0))


class IntegerProducts:
    """Adds products of 8-bit integers: weights have a scale for each column, inputs one that each call finds anew.

    A few channels inside a layer's MLP are a hundred times larger than the rest, which would be left with a few steps:
    those channels' part of its second product stays float32.

    Args:
        ranges: of what enters each product, by its name in the encoder.
    """

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        self._ranges = ranges

    def __call__(self, nodes: Nodes, x: str, weight: np.ndarray, bias: np.ndarray, name: str) -> str:
        if not name.endswith(".fc2"):
            return _integer_product(nodes, x, weight, bias)
        peaks = self._ranges[name].highest.numpy()
        loud = np.sort(np.argsort(-peaks)[: min(LOUD_CHANNELS, len(peaks) // 8)])
        others = np.setdiff1d(np.arange(len(peaks)), loud)
        product = _integer_product(nodes, nodes.op("Gather", x, others, axis=1), weight[others], bias)
        return nodes.op("Add", product, nodes.op("MatMul", nodes.op("Gather", x, loud, axis=1), weight[loud]))


def _integer_product(nodes: Nodes, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
    """Adds the operators that ONNX Runtime makes one of, `DynamicQuantizeMatMul`."""
    scale = (np.maximum(np.abs(weight).max(0), 1e-8) / 127).astype(np.float32)
    integers = np.round(weight / scale).astype(np.int8)
    given, given_scale, given_zero = nodes.ops("DynamicQuantizeLinear", 3, x)
    sums = nodes.op("MatMulInteger", given, integers, given_zero, np.zeros(len(scale), np.int8))
    product = nodes.op("Mul", nodes.op("Cast", sums, to=1), nodes.op("Mul", given_scale, scale))
    return nodes.op("Add", product, bias)
