"""A whole model as one ONNX graph: waveform in, probabilities out."""

import onnx
from onnx import TensorProto, helper

import whisper_ser
from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.inference.engines.chunks import cut, joined, mel_chunks
from whisper_ser.inference.engines.head import averaged, classify, project
from whisper_ser.inference.engines.layers import encode
from whisper_ser.inference.engines.nodes import Nodes
from whisper_ser.inference.engines.products import Products
from whisper_ser.inference.engines.spectrogram import log_mel

OPSET, IR_VERSION = 17, 8
"""Of 2022: LayerNormalization is in it, and any ONNX Runtime since 1.12 reads it."""


def model_graph(
    model: WhisperForEmotionClassification, extractor: WhisperSerFeatureExtractor, products: Products
) -> onnx.ModelProto:
    """Returns the graph, its inputs `audio` and `lengths`, its output `probabilities`.

    Args:
        products: what adds the large products of the encoder.
    """
    nodes, base = Nodes(), model.whisper_ser
    mels, mel_frames = log_mel(nodes, "audio", "lengths", extractor)
    chunks = cut(nodes, nodes.divided_up(mel_frames, 2), model.config.chunk_frames)
    group = model.config.frame_averaging

    def run_pass(inner: Nodes, number: str) -> str:
        chunked, inside, length = mel_chunks(inner, number, mels, mel_frames, chunks)
        states = encode(inner, chunked, inside, length, chunks.longest, base.encoder, products)
        # Groups of averaged frames reach across the ends of chunks, and have to wait for all passes.
        result = project(inner, states, base) if group == 1 else inner.op("Concat", *states, axis=-1)
        return result

    rows = nodes.loop(chunks.passes, run_pass)
    rows = nodes.op("Reshape", rows, nodes.shape(-1, nodes.size(rows, 2)))
    vectors, frames = joined(nodes, rows, chunks), chunks.frames
    if group > 1:
        states, frames = averaged(nodes, vectors, frames, group)
        width = model.config.encoder_config.d_model
        layers = [
            nodes.cut(states, i * width, (i + 1) * width, axis=2) for i in range(len(base.encoder.layer_indices))
        ]
        vectors = project(nodes, layers, base)
    nodes.op("Identity", classify(nodes, vectors, frames, model))
    nodes.nodes[-1].output[0] = "probabilities"
    graph = helper.make_graph(
        nodes.nodes,
        "whisper_ser",
        [
            helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(model.config.labels)])],
        nodes.constants,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="whisper-ser",
        producer_version=whisper_ser.__version__,
    )
