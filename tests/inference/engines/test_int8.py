"""8-bit graphs: close to float32, the same on every processor, smaller, and fast where ONNX Runtime fuses them."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import RATE, speechlike
from onnx import TensorProto, helper, numpy_helper

from modeling_whisper_ser import WhisperForEmotionClassification
from whisper_ser.audio.decoding import read_audio
from whisper_ser.audio.log_mel import LogMel
from whisper_ser.data.corpora.table import load_table
from whisper_ser.errors import ExportError
from whisper_ser.inference.engines import int8
from whisper_ser.inference.engines.graph_export import encoder_graph
from whisper_ser.inference.engines.int8 import calibration_voices, quantize_encoder, quantize_weight
from whisper_ser.inference.model import torch_weights

LOG_MEL = LogMel(80, RATE, 160, 400, None)
PRODUCTS = 6
"""Of a layer: queries, keys, values, output, and two of the MLP."""
LOUD = 7
"""A channel that is made a hundred times louder."""


class Encoder(NamedTuple):
    """An encoder in float32 and in int8, and the weights that the float32 graph does not hold."""

    graph: onnx.ModelProto
    weights: dict[str, np.ndarray]
    integers: onnx.ModelProto

    def floats(self, features: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return run(self.graph, features, lengths, self.weights)


def build(checkpoint, **fields) -> Encoder:
    model = WhisperForEmotionClassification.from_encoder(checkpoint, ["a", "b"], **fields)
    graph = encoder_graph(model.config)
    named = {constant.name for constant in graph.graph.initializer}
    weights = {name: weight for name, weight in torch_weights(model).items() if name in named}
    return Encoder(graph, weights, quantize_encoder(graph, weights, LOG_MEL))


@pytest.fixture(scope="module")
def small(small_checkpoint) -> Encoder:
    return build(small_checkpoint, layer_index=2)


@pytest.fixture(scope="module")
def base(shared) -> Encoder:
    return build(shared / "models/whisper-base", layer_mixing="concat", layer_indices=[2, 3, 4])


@pytest.fixture(scope="module")
def speech(shared) -> list[np.ndarray]:
    """Log-mel of real recordings, the first second of each."""
    paths = [path for corpus in ("emodb4", "ravdess") for path in load_table(shared / "data" / corpus)["path"][::97]]
    return [LOG_MEL(read_audio(path)[:RATE]) for path in paths[:12]]


def run(model: onnx.ModelProto, features, lengths, weights=None, output: str | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in weights.values()]
        options.add_external_initializers(list(weights), values)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(output and [output], {"features": features, "lengths": lengths})[0]


def one(mel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mel[np.newaxis], np.array([len(mel)])


def batch(mels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(mel) for mel in mels])
    features = np.zeros((len(mels), lengths.max(), 80), np.float32)
    for row, mel in zip(features, mels, strict=True):
        row[: len(mel)] = mel
    return features, lengths


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the root mean square error `(layers, chunks, frames, width)`, in standard deviations of a channel."""
    return float(np.sqrt(np.mean(((found - expected) / expected.std((1, 2), keepdims=True)) ** 2)))


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}


def integer_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {name: value for name, value in constants(model).items() if value.dtype == np.int8 and value.ndim == 2}


def integer_products(model: onnx.ModelProto, mels: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields activations `(rows, in)`, as the graph quantises them, and weights `(in, out)` of each product."""
    source = {name: node for node in model.graph.node for name in node.output}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for name in names:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    # Nothing is fused: all is computed in floats, whatever instructions for integers there are.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for mel in mels:
        features, lengths = one(mel)
        for name, value in zip(names, session.run(names, {"features": features, "lengths": lengths}), strict=True):
            found[name].append(value.reshape(-1, value.shape[-1]))
    weights = integer_weights(model)
    for node in model.graph.node:
        inputs = [source.get(name) for name in node.input]
        if node.op_type == "MatMul" and all(one and one.op_type == "DequantizeLinear" for one in inputs):
            yield np.concatenate(found[inputs[0].input[0]]), weights[inputs[1].input[0]]


def saturating_sums(activations: np.ndarray, weights: np.ndarray) -> int:
    """Returns how many sums of two products do not fit in 16 bits (`vpmaddubsw`)."""
    rows, columns = activations.astype(np.int32), weights.astype(np.int32)
    count = 0
    for k in range(0, len(weights), 2):
        sums = rows[:, k : k + 2] @ columns[k : k + 2]
        count += int(np.count_nonzero((sums > 32767) | (sums < -32768)))
    return count


def widened(weights: np.ndarray) -> np.ndarray:
    """Returns 7-bit weights in 8 bits."""
    return np.rint(weights * (127 / int8.WEIGHT_LIMIT)).astype(np.int8)


def test_sums_saturate_as_the_instruction_does():
    activations = np.array([[255, 255], [255, 0], [129, 129]], np.uint8)
    assert saturating_sums(activations, np.array([[64, -64], [64, -64]], np.int8)) == 0  # +-32,640
    # 255 * 127 * 2 = 64,770 and 129 * 127 * 2 = 32,766, which still fits
    assert saturating_sums(activations, np.array([[127], [127]], np.int8)) == 1
    assert saturating_sums(activations, np.array([[-128], [-128]], np.int8)) == 2  # 129 * 128 * 2 = 33,024


def test_no_sum_saturates_on_synthetic_voices(small):
    products = list(integer_products(small.integers, [LOG_MEL(voice) for voice in calibration_voices(RATE)]))
    assert len(products) == 2 * PRODUCTS
    assert sum(saturating_sums(activations, weights) for activations, weights in products) == 0
    assert sum(saturating_sums(activations, widened(weights)) for activations, weights in products) > 0


@pytest.mark.real
def test_no_sum_saturates_on_real_speech(base, speech):
    products = list(integer_products(base.integers, speech[::4]))
    assert len(products) == 4 * PRODUCTS
    rows = [activations[:: max(1, len(activations) // 32)] for activations, _ in products]
    assert all(saturating_sums(found, weights) == 0 for found, (_, weights) in zip(rows, products, strict=True))
    assert (
        sum(saturating_sums(found, widened(weights)) for found, (_, weights) in zip(rows, products, strict=True)) > 0
    )


def test_states_are_near_those_of_float32(small):
    for clip in (speechlike(1.0, 90), speechlike(0.31, 150, seed=1), 0.01 * speechlike(2.003, 220, seed=2)):
        features, lengths = one(LOG_MEL(clip))
        states = run(small.integers, features, lengths)
        assert states.dtype == np.float32
        assert error(states, small.floats(features, lengths)) < 0.05


@pytest.mark.real
def test_states_of_real_speech_are_near_those_of_float32(base, speech):
    features, lengths = batch(speech)
    states, expected = run(base.integers, features, lengths), base.floats(features, lengths)
    assert error(states, expected) < 0.2


def test_a_chunk_alone_has_the_states_that_it_has_in_a_batch(small):
    mels = [LOG_MEL(speechlike(1.0, 90)), LOG_MEL(10 * speechlike(0.5, 220, seed=1)), LOG_MEL(speechlike(0.1, 150))]
    together = run(small.integers, *batch(mels))
    for row, mel in enumerate(mels):
        frames = -(-len(mel) // 2)
        np.testing.assert_allclose(together[:, row, :frames], run(small.integers, *one(mel))[:, 0], atol=1e-5)


def test_weights_have_seven_bits_and_a_scale_per_output_channel():
    weight = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32) * 10.0 ** np.arange(-3, 3)
    weight[:, 2] = 0
    integers, scales = quantize_weight(weight)
    assert integers.dtype == np.int8
    assert np.abs(integers).max(0).tolist() == [64, 64, 0, 64, 64, 64]
    assert (np.abs(integers * scales - weight) <= 0.5001 * scales).all()


def test_every_weight_of_a_graph_has_seven_bits(small):
    weights = integer_weights(small.integers)
    assert len(weights) == 2 * PRODUCTS
    assert all(np.abs(weight).max(0).max() == 64 for weight in weights.values())


def test_weights_take_about_a_third(base_or_small):
    weights = constants(base_or_small.integers)
    products = [name for name in weights if ".weight_" in name]
    bytes_of_floats = 4 * sum(weight.size for weight in integer_weights(base_or_small.integers).values())
    # A quarter in integers, and loud channels in float32: an eighth of the small one, 1/16 and less of whisper-base.
    assert 0.25 < sum(weights[name].nbytes for name in products) / bytes_of_floats < 0.45


@pytest.fixture(params=["small", pytest.param("base", marks=pytest.mark.real)])
def base_or_small(request) -> Encoder:
    return request.getfixturevalue(request.param)


def test_the_graph_given_stays_as_it_is_and_the_result_needs_no_other_file(small):
    before = small.graph.SerializeToString()
    integers = quantize_encoder(small.graph, small.weights, LOG_MEL)
    assert small.graph.SerializeToString() == before
    assert all(constant.data_location != TensorProto.EXTERNAL for constant in integers.graph.initializer)
    assert [one.name for one in integers.graph.input] == [one.name for one in small.graph.graph.input]
    assert integers.graph.output == small.graph.graph.output


def test_onnx_runtime_fuses_every_product(small, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(small.integers.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert operators["MatMulIntegerToFloat"] == 2 * PRODUCTS
    assert operators["QuantizeLinear"] == 2 * 4  # queries, keys and values share one
    assert operators["DequantizeLinear"] == operators["MatMulInteger"] == 0


def test_loud_channels_stay_in_float32(small, monkeypatch):
    # One channel is a hundred times louder, and its weights are a hundredth: float32 computes the same.
    weights = {name: weight.copy() for name, weight in small.weights.items()}
    for layer in ("whisper_ser.encoder.layers.0", "whisper_ser.encoder.layers.1"):
        weights[f"{layer}.final_layer_norm.weight"][LOUD] *= 100
        weights[f"{layer}.final_layer_norm.bias"][LOUD] *= 100
        weights[f"{layer}.fc1.weight"][:, LOUD] /= 100
    features, lengths = one(LOG_MEL(speechlike(1.0)))
    expected = small.floats(features, lengths)
    loud = quantize_encoder(small.graph, weights, LOG_MEL)
    assert error(run(loud, features, lengths), expected) < 0.05
    picked = [value for name, value in constants(loud).items() if name.endswith(".loud_channels")]
    assert [len(channels) for channels in picked] == 2 * [4, 4, 4, 8]  # an eighth of 32 and of 64
    assert sum(LOUD in channels for channels in picked[2::4]) == 2
    monkeypatch.setattr(int8, "LOUD_CHANNELS", 0)
    assert error(run(quantize_encoder(small.graph, weights, LOG_MEL), features, lengths), expected) > 0.1


def test_what_cannot_be_quantised_says_why(small):
    damaged = {name: weight * np.float32(np.nan) for name, weight in small.weights.items()}
    with pytest.raises(ExportError, match="not finite, weights may be damaged"):
        quantize_encoder(small.graph, damaged, LOG_MEL)
    with pytest.raises(ExportError, match="does not hold the weights whisper_ser.encoder"):
        quantize_encoder(small.graph, {}, LOG_MEL)
    wrong = {name: weight[..., :1] for name, weight in small.weights.items()}
    with pytest.raises(ExportError, match="another shape"):
        quantize_encoder(small.graph, wrong, LOG_MEL)
    empty = onnx.ModelProto()
    empty.CopyFrom(small.graph)
    del empty.graph.node[:]
    with pytest.raises(ExportError, match="nothing to quantise"):
        quantize_encoder(empty, small.weights, LOG_MEL)


def test_a_graph_in_a_file(small, tmp_path):
    (tmp_path / "encoder.onnx").write_bytes(small.graph.SerializeToString())
    assert quantize_encoder(tmp_path / "encoder.onnx", small.weights, LOG_MEL) == small.integers
