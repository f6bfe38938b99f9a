"""CTranslate2 folders, converted once to folders that transformers can load."""

import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_encoder_checkpoint import build, check_weights
from transformers import WhisperModel

from modeling_whisper_ser.encoder_whisper_ser import load_whisper_config
from whisper_ser.demo import ctranslate2
from whisper_ser.demo.ctranslate2 import convert
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.errors import CheckpointError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WHISPER_SER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "faster-whisper"
    folder.mkdir()
    return folder


def write_ctranslate2(path, whisper: WhisperModel, dtype=torch.float16, code=4) -> None:
    """Writes `model.bin` as the CTranslate2 converter does, from the description of the format alone."""
    encoder = {name: tensor.to(dtype) for name, tensor in whisper.encoder.state_dict().items()}
    variables = {"encoder/num_heads": torch.tensor(whisper.config.encoder_attention_heads, dtype=torch.int16)}
    for conv in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            variables[f"encoder/{conv}/{kind}"] = encoder[f"{conv}.{kind}"]
    variables["encoder/position_encodings/encodings"] = encoder["embed_positions.weight"]
    norms = {"encoder/layer_norm": "layer_norm"}
    for i in range(whisper.config.encoder_layers):
        ours, theirs = f"layers.{i}", f"encoder/layer_{i}"
        norms[f"{theirs}/self_attention/layer_norm"] = f"{ours}.self_attn_layer_norm"
        norms[f"{theirs}/ffn/layer_norm"] = f"{ours}.final_layer_norm"
        q, k, v = (encoder[f"{ours}.self_attn.{x}_proj.weight"] for x in "qkv")
        q_bias, v_bias = (encoder[f"{ours}.self_attn.{x}_proj.bias"] for x in "qv")
        variables[f"{theirs}/self_attention/linear_0/weight"] = torch.cat([q, k, v])
        variables[f"{theirs}/self_attention/linear_0/bias"] = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        linears = {"self_attention/linear_1": "self_attn.out_proj", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2"}
        for ct2, hf in linears.items():
            for kind in ("weight", "bias"):
                variables[f"{theirs}/{ct2}/{kind}"] = encoder[f"{ours}.{hf}.{kind}"]
    for ct2, hf in norms.items():
        variables[f"{ct2}/gamma"], variables[f"{ct2}/beta"] = encoder[f"{hf}.weight"], encoder[f"{hf}.bias"]

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    out = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, tensor in variables.items():
        data = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.numpy().tobytes()
        kind = code if tensor.dtype == dtype else 2
        out += string(name) + struct.pack("<B", tensor.dim()) + struct.pack(f"<{tensor.dim()}I", *tensor.shape)
        out += struct.pack("<BI", kind, len(data)) + data
    path.write_bytes(out)


@pytest.mark.parametrize(("dtype", "code"), [(torch.float32, 0), (torch.float16, 4), (torch.bfloat16, 5)])
@pytest.mark.parametrize("layer_index", [1, 3])
def test_a_ctranslate2_folder_becomes_an_encoder(small_whisper, folder, cache, dtype, code, layer_index):
    write_ctranslate2(folder / "model.bin", small_whisper, dtype, code)
    converted = resolve_encoder(str(folder))
    assert Path(converted).parent == cache
    rounded = WhisperModel(small_whisper.config)
    rounded.load_state_dict({key: value.to(dtype).float() for key, value in small_whisper.state_dict().items()})
    check_weights(build(converted, layer_index), rounded)
    stored = load_file(Path(converted) / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert stored.keys() == {f"model.encoder.{name}" for name in small_whisper.encoder.state_dict()}
    config = load_whisper_config(converted)
    for field in ("num_mel_bins", "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim"):
        assert getattr(config, field) == getattr(small_whisper.config, field)


def test_it_is_converted_once_and_anew_when_it_changed(small_whisper, folder, monkeypatch):
    conversions = []
    read = ctranslate2.read_encoder
    monkeypatch.setattr(ctranslate2, "read_encoder", lambda path: (conversions.append(path), read(path))[1])
    write_ctranslate2(folder / "model.bin", small_whisper)
    first = convert(folder)
    assert convert(folder) == first and len(conversions) == 1
    other = WhisperModel(small_whisper.config)
    write_ctranslate2(folder / "model.bin", other)
    second = convert(folder)
    assert second != first and len(conversions) == 2
    check_weights(build(second), other.half())


def test_a_damaged_copy_is_converted_anew(small_whisper, folder):
    write_ctranslate2(folder / "model.bin", small_whisper)
    weights = convert(folder) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"?")
    assert convert(folder) == weights.parent and weights.read_bytes() == whole


def test_a_folder_with_safetensors_beside_model_bin_is_left_alone(small_checkpoint, folder):
    for file in small_checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.bin").write_bytes(b"something else")
    assert resolve_encoder(str(folder)) == str(folder)
    assert build(folder)


def test_broken_files_are_refused_and_leave_nothing(small_whisper, folder, cache):
    path = folder / "model.bin"
    write_ctranslate2(path, small_whisper)
    whole = path.read_bytes()
    other_kind = whole.replace(b"WhisperSpec", b"TransfSpec1")
    for broken in (whole[: len(whole) // 2], whole[:7], b"\x80\x02}q\x00.", other_kind, b""):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="not a complete CTranslate2 Whisper model"):
            convert(folder)
    assert not [entry for entry in cache.iterdir() if entry.suffix != ".lock"]


def test_a_missing_tensor_is_named(small_whisper, folder):
    write_ctranslate2(folder / "model.bin", small_whisper)
    data = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(data.replace(b"encoder/layer_norm/gamma", b"encoder/layer_norm/gamme"))
    with pytest.raises(CheckpointError, match="Missing key.*layer_norm.weight"):
        convert(folder)


def test_quantised_files_are_named(small_whisper, folder):
    write_ctranslate2(folder / "model.bin", small_whisper, torch.int8, 1)
    with pytest.raises(CheckpointError, match=r"model.bin is quantised.*int8"):
        convert(folder)
