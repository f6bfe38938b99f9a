"""Post-training quantisation of an ONNX graph: 8-bit products that are right on every processor.

Activations are unsigned 8-bit integers of a fixed range, weights signed 7-bit integers with a scale per output channel.
x86 processors with AVX2 but without VNNI add two products in 16 bits, and saturate (`vpmaddubsw`); with 7-bit weights
the sum is at most 255 * 64 * 2 = 32,640, below 32,768. Fixed ranges, instead of `DynamicQuantizeLinear`, leave a clip's
states the same alone and in a batch: a range found in each call depends on the other clips and on padding.

The result has `QuantizeLinear` and `DequantizeLinear` around each product (QDQ format), which ONNX Runtime turns into
integer products (`MatMulIntegerToFloat`) when it loads the graph. `onnxruntime.quantization` writes the same format, but
cannot keep single input channels in float32: it would replace the activation for those, too.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from whisper_ser.errors import ExportError

WEIGHT_LIMIT = 64
"""Largest magnitude of a quantised weight (7 bits)."""
LOUD_CHANNELS = 32
"""Input channels of each product that stay in float32: the loudest, hundreds of times the median in Whisper."""
RANGE_MARGIN = 2.0
"""By which measured ranges are widened: real speech reached 1.7 times the range of `calibration_voices`."""


class Product(NamedTuple):
    """A product of an activation `(..., in)` with a constant weight `(in, out)`."""

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


def quantize(
    graph: onnx.ModelProto | str | os.PathLike,
    inputs: Iterable[Mapping[str, np.ndarray]],
    exclude: Collection[str] = (),
) -> onnx.ModelProto:
    """Returns the graph with 8-bit products; inputs, outputs and everything else stay in float32 as they are.

    Every MatMul, and Gemm, of an activation with a constant float32 weight `(in, out)` is quantised, convolutions are
    not. The `LOUD_CHANNELS` loudest input channels of each product (an eighth at most) stay in float32.

    Args:
        graph: a float32 model or its file, not modified. Its opset must be 13 or later.
        inputs: typical inputs of the graph, by input name, over which ranges are measured. A few seconds are enough:
            the encoder's features of `calibration_voices`, or of recordings.
        exclude: names of nodes, or of their weights, that stay in float32: mel filters, for example.

    Raises:
        ExportError: nothing to quantise, no inputs, activations that are not finite, or an opset below 13.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph if isinstance(graph, onnx.ModelProto) else onnx.load(os.fspath(graph)))
    _check_opset(model)
    _split_gemms(model.graph, exclude)
    products = _find_products(model.graph, exclude)
    if not products:
        raise ExportError("The graph has nothing to quantise: no MatMul or Gemm with a constant float32 weight.")
    activations = list(dict.fromkeys(product.node.input[0] for product in products))
    quantizations = {
        name: _choose_quantization(lowest, highest)
        for name, (lowest, highest) in _channel_ranges(model, activations, inputs).items()
    }
    _replace(model.graph, products, quantizations)
    onnx.checker.check_model(model)
    return model


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


def _check_opset(model: onnx.ModelProto) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < 13:
        raise ExportError(f"The graph has opset {opset}; scales per channel need 13 or later.")


def _split_gemms(graph: onnx.GraphProto, exclude: Collection[str]) -> None:
    """Writes each Gemm with a constant weight as a MatMul and, if it has a bias, an Add."""
    constants = _constants(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if (
            node.op_type != "Gemm"
            or not _is_weight(constants.get(node.input[1]))
            or attributes.get("transA", 0)
            or {node.name, node.input[1]} & set(exclude)
        ):
            nodes.append(node)
            continue
        output = node.output[0]
        weight = numpy_helper.to_array(constants[node.input[1]])
        weight = np.float32(attributes.get("alpha", 1.0)) * (weight.T if attributes.get("transB", 0) else weight)
        weight_name = _add_constant(graph, f"{output}.weight", weight)
        if len(node.input) < 3 or not node.input[2]:
            nodes.append(helper.make_node("MatMul", [node.input[0], weight_name], [output], name=node.name))
            continue
        bias = node.input[2]
        if (beta := attributes.get("beta", 1.0)) != 1:
            factor = _add_constant(graph, f"{output}.beta", np.float32(beta))
            nodes.append(helper.make_node("Mul", [bias, factor], [bias := f"{output}.bias"]))
        product = f"{output}.product"
        nodes.append(helper.make_node("MatMul", [node.input[0], weight_name], [product], name=node.name))
        nodes.append(helper.make_node("Add", [product, bias], [output]))
    _set_nodes(graph, nodes)


def _find_products(graph: onnx.GraphProto, exclude: Collection[str]) -> list[Product]:
    constants = _constants(graph)
    return [
        Product(node, numpy_helper.to_array(constants[node.input[1]]))
        for node in graph.node
        if node.op_type == "MatMul"
        and node.input[0] not in constants
        and _is_weight(constants.get(node.input[1]))
        and not {node.name, node.input[1]} & set(exclude)
    ]


def _channel_ranges(
    model: onnx.ModelProto, activations: list[str], inputs: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the lowest and highest value of each channel of each activation over the inputs."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {output.name for output in watched.graph.output} | {entry.name for entry in watched.graph.input}
    for name in activations:
        if name not in outputs:
            watched.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    graph_inputs = {entry.name for entry in session.get_inputs()}
    computed = [name for name in activations if name not in graph_inputs]
    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for given in inputs:
        values = dict(zip(computed, session.run(computed, dict(given)), strict=True))
        for name in activations:
            value = values[name] if name in values else np.asarray(given[name])
            rows = value.reshape(-1, value.shape[-1])
            lowest, highest = rows.min(0), rows.max(0)
            if name in ranges:
                lowest, highest = np.minimum(lowest, ranges[name][0]), np.maximum(highest, ranges[name][1])
            ranges[name] = lowest, highest
    if not ranges:
        raise ExportError("Quantisation needs at least one typical input of the graph, to measure ranges over.")
    if broken := [name for name, ends in ranges.items() if not np.isfinite(ends).all()]:
        raise ExportError(f"Activations are not finite for the inputs given: {', '.join(broken[:8])}.")
    return ranges


def _choose_quantization(lowest: np.ndarray, highest: np.ndarray) -> Quantization:
    """Returns how an activation is quantised, given the range of each of its channels."""
    count = min(LOUD_CHANNELS, len(lowest) // 8)
    loudness = np.maximum(-lowest, highest)
    loud = np.sort(np.argsort(-loudness, kind="stable")[:count])
    low = RANGE_MARGIN * min(np.delete(lowest, loud).min(), 0.0)
    high = RANGE_MARGIN * max(np.delete(highest, loud).max(), 0.0)
    scale = (high - low) / 255 or 1.0
    return Quantization(np.float32(scale), np.uint8(np.rint(-low / scale).clip(0, 255)), loud)


def _replace(graph: onnx.GraphProto, products: list[Product], quantizations: Mapping[str, Quantization]) -> None:
    """Replaces the products by quantised ones, and removes the float32 weights that nothing reads any more."""
    of_output = {product.node.output[0]: product for product in products}
    nodes: list[onnx.NodeProto] = []
    seen: set[str] = set()
    for node in graph.node:
        product = of_output.get(node.output[0]) if node.output else None
        if product is None:
            nodes.append(node)
            continue
        activation = node.input[0]
        if activation not in seen:
            seen.add(activation)
            nodes += _activation_nodes(graph, activation, quantizations[activation])
        nodes += _product_nodes(graph, product, quantizations[activation].loud)
    _set_nodes(graph, nodes)
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


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
    weight, quiet = f"{output}.weight_dequantized", f"{output}.quiet" if len(loud) else output
    nodes = [
        helper.make_node("DequantizeLinear", parameters, [weight], axis=1),
        helper.make_node("MatMul", [f"{activation}.dequantized", weight], [quiet], name=product.node.name),
    ]
    if len(loud):
        loud_weight = _add_constant(graph, f"{output}.weight_loud", product.weight[loud])
        nodes.append(helper.make_node("MatMul", [f"{activation}.loud", loud_weight], [f"{output}.loud"]))
        nodes.append(helper.make_node("Add", [quiet, f"{output}.loud"], [output]))
    return nodes


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    return {constant.name: constant for constant in graph.initializer}


def _is_weight(constant: onnx.TensorProto | None) -> bool:
    return constant is not None and constant.data_type == onnx.TensorProto.FLOAT and len(constant.dims) == 2


def _add_constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
    return name


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)
