"""Post-training quantisation of the graph of an encoder: 8-bit products that are right on every processor.

Activations become unsigned 8-bit integers of a fixed range, weights signed 7-bit integers with a scale per output
channel. x86 processors with AVX2 but without VNNI add two products in 16 bits and saturate (`vpmaddubsw`); with 7-bit
weights the sum is at most 255 * 64 * 2 = 32,640, below 32,768. Ranges are fixed, not found in each call
(`DynamicQuantizeLinear`), so that a clip's states do not depend on the other clips of a batch and on padding.

The result has `QuantizeLinear` and `DequantizeLinear` around each product (QDQ format), which ONNX Runtime fuses to
integer products (`MatMulIntegerToFloat`) when it loads the graph. `onnxruntime.quantization` writes the same format
but cannot keep single input channels in float32: it gives all readers of an activation the quantised one.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from whisper_ser.audio.log_mel import LogMel
from whisper_ser.errors import ExportError
from whisper_ser.inference.engines.session import open_session

WEIGHT_LIMIT = 64
"""Largest magnitude of a quantised weight (7 bits)."""
LOUD_CHANNELS = 32
"""Input channels of each product that stay in float32: the loudest, up to 40 times the median in whisper-base."""
RANGE_MARGIN = 2.0
"""By which measured ranges are widened: real speech reached 1.7 times the range of `calibration_voices`."""


class Product(NamedTuple):
    """A MatMul of an activation `(..., in)` with a constant weight `(in, out)`."""

    node: onnx.NodeProto
    weight: np.ndarray


class Quantization(NamedTuple):
    """How one activation becomes 8-bit integers, and which of its channels do not."""

    scale: np.ndarray
    """float32, `()`."""
    zero_point: np.ndarray
    """uint8, `()`."""
    loud: np.ndarray
    """Channels that stay in float32, ascending."""


def quantize_encoder(
    graph: onnx.ModelProto | str | os.PathLike, weights: Mapping[str, np.ndarray], log_mel: LogMel
) -> onnx.ModelProto:
    """Returns the graph of an encoder with 8-bit products and all weights inside; inputs and outputs stay as they are.

    Every MatMul of an activation with a constant weight is quantised. Convolutions and the `LOUD_CHANNELS` loudest
    input channels of each product (an eighth at most) stay in float32. Ranges of activations are measured over
    `calibration_voices`: no recordings are needed.

    Args:
        graph: as `graph_export.encoder_graph` makes it, or its file; it is not modified.
        weights: tensors of the model, float32, by name; those that the graph does not name are ignored.
        log_mel: front end of the model.

    Raises:
        ExportError: nothing to quantise, activations that are not finite, or weights that are missing or do not fit.
    """
    encoder = _measured(graph, weights, log_mel)
    _replace(encoder.model.graph, encoder.products, encoder.quantizations)
    for constant in encoder.model.graph.initializer:
        if constant.name in encoder.weights:
            constant.CopyFrom(numpy_helper.from_array(encoder.weights[constant.name], constant.name))
    onnx.checker.check_model(encoder.model)
    return encoder.model


def quantize_whole_model(
    model: onnx.ModelProto,
    encoder: onnx.ModelProto | str | os.PathLike,
    weights: Mapping[str, np.ndarray],
    log_mel: LogMel,
) -> onnx.ModelProto:
    """Returns the graph of a whole model (`whole_model.whole_model_graph`) with 8-bit products in its encoder.

    Args:
        model: the graph, which runs the encoder on one chunk after the other, in the body of a Scan.
        encoder, weights, log_mel: as in `quantize_encoder`: ranges are measured over the encoder alone.

    Raises:
        ExportError: the graph has no loop with the products of the encoder.
    """
    alone = _measured(encoder, weights, log_mel)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    matrices = _matrices(whole.graph, {})
    for body in (attribute.g for node in whole.graph.node for attribute in node.attribute if attribute.HasField("g")):
        products = _find_products(body, matrices)
        # The exporter keeps the order of the encoder's products.
        pairs = list(zip(products, alone.products, strict=False))
        if len(products) == len(alone.products) and all(np.array_equal(a.weight, b.weight) for a, b in pairs):
            _replace(body, products, {a.node.input[0]: alone.quantizations[b.node.input[0]] for a, b in pairs})
            _keep_used(whole.graph)
            onnx.checker.check_model(whole)
            return whole
    raise ExportError("The graph of the model has no loop over the encoder, which could be quantised.")


class MeasuredEncoder(NamedTuple):
    """A graph that is to be quantised: its external weights, its products, and how each activation is quantised."""

    model: onnx.ModelProto
    weights: dict[str, np.ndarray]
    products: list[Product]
    quantizations: dict[str, Quantization]


def _measured(
    graph: onnx.ModelProto | str | os.PathLike, weights: Mapping[str, np.ndarray], log_mel: LogMel
) -> MeasuredEncoder:
    model = onnx.ModelProto()
    model.CopyFrom(graph if isinstance(graph, onnx.ModelProto) else onnx.load(graph, load_external_data=False))
    external = _external_weights(model.graph, weights)
    products = _find_products(model.graph, _matrices(model.graph, external))
    if not products:
        raise ExportError("The graph has nothing to quantise: no MatMul with a constant float32 weight.")
    activations = list(dict.fromkeys(product.node.input[0] for product in products))
    ranges = _channel_ranges(model, activations, external, log_mel)
    return MeasuredEncoder(
        model, external, products, {name: _choose_quantization(*ends) for name, ends in ranges.items()}
    )


def quantize_weight(weight: np.ndarray, limit: int = WEIGHT_LIMIT) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 weights `(in, out)` of magnitude `limit` at most, and their scales `(out,)`."""
    largest = np.abs(weight).max(0)
    scales = (np.where(largest > 0, largest, 1) / limit).astype(np.float32)
    return np.rint(weight / scales).clip(-limit, limit).astype(np.int8), scales


def calibration_voices(sampling_rate: int) -> list[np.ndarray]:
    """Returns voice-like waveforms: harmonics of wavering pitches in syllables, soft and loud, noise, and a pause."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * sampling_rate) / sampling_rate
    voices = []
    for pitch, level in ((90, 0.3), (120, 0.05), (160, 0.1), (220, 0.3), (320, 0.01)):
        phase = 2 * np.pi * pitch * (time + 0.01 * np.sin(2 * np.pi * 3 * time))
        voice = sum(np.sin(k * phase) / k for k in range(1, 12))
        syllables = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time + rng.uniform(0, 6))
        voices.append(level * (voice * syllables + 0.03 * rng.standard_normal(len(time))))
    voices.append(0.1 * rng.standard_normal(len(time)))
    voices.append(np.concatenate([np.zeros(sampling_rate), voices[0][:sampling_rate], np.zeros(sampling_rate)]))
    return [voice.astype(np.float32) for voice in voices]


def _external_weights(graph: onnx.GraphProto, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the weights that the graph names and does not hold."""
    absent = [one for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
    if missing := [one.name for one in absent if one.name not in weights]:
        raise ExportError(f"The graph does not hold the weights {', '.join(missing[:8])}, and they were not given.")
    if wrong := [one.name for one in absent if tuple(one.dims) != weights[one.name].shape]:
        raise ExportError(f"The weights given are of another shape than the graph's: {', '.join(wrong[:8])}.")
    return {one.name: np.ascontiguousarray(weights[one.name], np.float32) for one in absent}


def _matrices(graph: onnx.GraphProto, external: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the constant float32 matrices of a graph, by name."""
    return {
        constant.name: external[constant.name] if constant.name in external else numpy_helper.to_array(constant)
        for constant in graph.initializer
        if constant.data_type == onnx.TensorProto.FLOAT and len(constant.dims) == 2
    }


def _find_products(graph: onnx.GraphProto, matrices: Mapping[str, np.ndarray]) -> list[Product]:
    """Returns the products of an activation with one of the matrices, in the order of the graph."""
    matrices = dict(matrices)
    # The exporter reads the weights `(out, in)` of torch through a Transpose.
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in matrices:
            matrices[node.output[0]] = matrices[node.input[0]].T
    return [
        Product(node, matrices[node.input[1]])
        for node in graph.node
        if node.op_type == "MatMul" and node.input[0] not in matrices and node.input[1] in matrices
    ]


def _channel_ranges(
    model: onnx.ModelProto, activations: list[str], weights: Mapping[str, np.ndarray], log_mel: LogMel
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the lowest and highest value of each channel of each activation over the calibration voices."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    for name in activations:
        watched.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = open_session(watched.SerializeToString(), weights)
    lowest: dict[str, np.ndarray] = {}
    highest: dict[str, np.ndarray] = {}
    for mel in map(log_mel, calibration_voices(log_mel.sampling_rate)):
        found = session.run(None, {"features": mel[np.newaxis], "lengths": np.array([len(mel)])})
        for name, value in zip(activations, found, strict=True):
            rows = value.reshape(-1, value.shape[-1])
            lowest[name] = np.minimum(lowest.get(name, np.inf), rows.min(0))
            highest[name] = np.maximum(highest.get(name, -np.inf), rows.max(0))
    if broken := [name for name in activations if not np.isfinite([lowest[name], highest[name]]).all()]:
        raise ExportError(f"Activations are not finite, weights may be damaged: {', '.join(broken[:8])}.")
    return {name: (lowest[name], highest[name]) for name in activations}


def _choose_quantization(lowest: np.ndarray, highest: np.ndarray) -> Quantization:
    """Returns how an activation is quantised, given the range of each of its channels."""
    count = min(LOUD_CHANNELS, len(lowest) // 8)
    loudness = np.maximum(-lowest, highest)
    loud = np.sort(np.argsort(-loudness, kind="stable")[:count])
    low = RANGE_MARGIN * min(np.delete(lowest, loud).min(), 0.0)
    high = RANGE_MARGIN * max(np.delete(highest, loud).max(), 0.0)
    scale = (high - low) / 255 or 1.0
    zero_point = np.rint(-low / scale).clip(0, 255)
    return Quantization(np.array(scale, np.float32), np.array(zero_point, np.uint8), loud)


def _replace(graph: onnx.GraphProto, products: list[Product], quantizations: Mapping[str, Quantization]) -> None:
    """Replaces the products by quantised ones, and removes the float32 weights that nothing reads any more."""
    by_output = {product.node.output[0]: product for product in products}
    nodes: list[onnx.NodeProto] = []
    quantized: set[str] = set()
    for node in graph.node:
        product = by_output.get(node.output[0])
        if product is None:
            nodes.append(node)
            continue
        activation = node.input[0]
        if activation not in quantized:
            quantized.add(activation)
            nodes += _activation_nodes(graph, activation, quantizations[activation])
        nodes += _product_nodes(graph, product, quantizations[activation].loud)
    weight_names = {product.node.input[1] for product in products}
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    nodes = [node for node in nodes if not (node.op_type == "Transpose" and node.output[0] in weight_names - used)]
    del graph.node[:]
    graph.node.extend(nodes)
    _keep_used(graph)
    del graph.value_info[:]  # shapes of what is gone


def _keep_used(graph: onnx.GraphProto) -> None:
    """Removes the constants that neither the graph nor the body of a loop in it reads."""
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            used |= {name for inner in attribute.g.node for name in inner.input}
    kept = onnx.GraphProto(initializer=[constant for constant in graph.initializer if constant.name in used])
    del graph.initializer[:]
    graph.initializer.extend(kept.initializer)


def _activation_nodes(graph: onnx.GraphProto, name: str, quantization: Quantization) -> list[onnx.NodeProto]:
    """Returns the nodes that quantise an activation, and those that pick its loud channels.

    Loud channels are clipped in the quantised activation, where their weights are 0.
    """
    parameters = [
        _add_constant(graph, f"{name}.scale", quantization.scale),
        _add_constant(graph, f"{name}.zero_point", quantization.zero_point),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.quantized"]),
        helper.make_node("DequantizeLinear", [f"{name}.quantized", *parameters], [f"{name}.dequantized"]),
    ]
    if len(quantization.loud):
        channels = _add_constant(graph, f"{name}.loud_channels", quantization.loud.astype(np.int64))
        nodes.append(helper.make_node("Gather", [name, channels], [f"{name}.loud"], axis=-1))
    return nodes


def _product_nodes(graph: onnx.GraphProto, product: Product, loud: np.ndarray) -> list[onnx.NodeProto]:
    """Returns the nodes of one quantised product, whose loud channels are a float32 product of their own."""
    activation, output = product.node.input[0], product.node.output[0]
    quiet_weight = product.weight.copy()
    quiet_weight[loud] = 0
    integers, scales = quantize_weight(quiet_weight)
    parameters = [
        _add_constant(graph, f"{output}.weight_quantized", integers),
        _add_constant(graph, f"{output}.weight_scale", scales),
        _add_constant(graph, f"{output}.weight_zero_point", np.zeros(len(scales), np.int8)),
    ]
    weight, quiet = f"{output}.weight_dequantized", f"{output}.quiet_product"
    nodes = [
        helper.make_node("DequantizeLinear", parameters, [weight], axis=1),
        helper.make_node("MatMul", [f"{activation}.dequantized", weight], [quiet], name=product.node.name),
    ]
    if len(loud):
        loud_weight = _add_constant(graph, f"{output}.weight_loud", product.weight[loud])
        nodes.append(helper.make_node("MatMul", [f"{activation}.loud", loud_weight], [f"{output}.loud_product"]))
        nodes.append(helper.make_node("Add", [quiet, f"{output}.loud_product"], [f"{output}.product"]))
    nodes[-1].output[0] = output
    return nodes


def _add_constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    return name
