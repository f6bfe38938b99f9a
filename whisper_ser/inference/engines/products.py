"""The large products of the encoder in a graph: of float32, or of 8-bit integers."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from modeling_whisper_ser.packed_encoder_whisper_ser import (
    LOUD_CHANNELS,
    Range,
    activation_ranges,
    typical_voices,
)
from whisper_ser.inference.engines.nodes import Nodes
from whisper_ser.inference.model import Recognizer

PRECISIONS = ("float32", "int8")


class Products(Protocol):
    """What adds the large products of an encoder to a graph. Names are those of the encoder's modules."""

    def add(self, nodes: Nodes, x: str, weight: np.ndarray, bias: np.ndarray, name: str) -> str:
        """Adds `x W + b` of `x` `(rows, in)`, `W` `(in, out)` and `b` `(out,)`."""

    def order(self, name: str, channels: int) -> np.ndarray:
        """Returns the order in which the channels between a layer's two products stand, given the second's name."""


class FloatProducts:
    """Products of float32."""

    def add(self, nodes: Nodes, x: str, weight: np.ndarray, bias: np.ndarray, name: str) -> str:
        return nodes.op("Gemm", x, weight, bias)

    def order(self, name: str, channels: int) -> np.ndarray:
        return np.arange(channels)


class IntegerProducts:
    """Products of 8-bit integers: each column of a weight has a scale of its own, an input one that each call finds.

    A few channels inside a layer's MLP are a hundred times larger than the rest, which would be left with a few steps:
    they stand last, and their part of the second product stays float32.

    Args:
        ranges: of what enters each product, by its name in the encoder.
    """

    def __init__(self, ranges: Mapping[str, Range]) -> None:
        self._ranges = ranges

    def add(self, nodes: Nodes, x: str, weight: np.ndarray, bias: np.ndarray, name: str) -> str:
        if not name.endswith(".fc2"):
            return _integer_product(nodes, x, weight, bias)
        quiet = len(weight) - _loud(len(weight))
        product = _integer_product(nodes, nodes.cut(x, 0, quiet, axis=1), weight[:quiet], bias)
        loud = nodes.cut(x, quiet, len(weight), axis=1)
        return nodes.op("Add", product, nodes.op("MatMul", loud, weight[quiet:]))

    def order(self, name: str, channels: int) -> np.ndarray:
        ascending = np.argsort(self._ranges[name].highest.numpy(), kind="stable")
        quiet = channels - _loud(channels)
        return np.concatenate([np.sort(ascending[:quiet]), ascending[quiet:]])


def _loud(channels: int) -> int:
    return min(LOUD_CHANNELS, channels // 8)


def products(recognizer: Recognizer, precision: str) -> Products:
    """Returns what adds the large products of a model's encoder to a graph."""
    if precision == "float32":
        return FloatProducts()
    encoder = recognizer.model.whisper_ser.encoder
    heard = [recognizer.features([voice])["input_features"][0] for voice in typical_voices(recognizer.sampling_rate)]
    return IntegerProducts(activation_ranges(encoder, heard, margin=1.0))


def _integer_product(nodes: Nodes, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
    """Adds the operators that ONNX Runtime makes one of, `DynamicQuantizeMatMul`.

    Weights are signed: unsigned ones are as exact, and took twice as long on AVX-512 VNNI. (Older processors add up
    products with signed ones in 16 bits, which overflow; the reference output shows it.)
    """
    scale = (np.maximum(np.abs(weight).max(0), 1e-8) / 127).astype(np.float32)
    integers = np.round(weight / scale).astype(np.int8)
    given, given_scale, given_zero = nodes.ops("DynamicQuantizeLinear", 3, x)
    sums = nodes.op("MatMulInteger", given, integers, given_zero, np.zeros(len(scale), np.int8))
    product = nodes.op("Mul", nodes.op("Cast", sums, to=1), nodes.op("Mul", given_scale, scale))
    return nodes.op("Add", product, bias)
