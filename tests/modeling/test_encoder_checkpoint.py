"""Encoders from every kind of Whisper checkpoint."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForAudioClassification, WhisperForConditionalGeneration, WhisperModel

from modeling_whisper_ser import EncoderCheckpointError, WhisperForEmotionClassification, checkpoint_whisper_ser
from modeling_whisper_ser.checkpoint_whisper_ser import open_encoder


def build(path, layer_index=2):
    model = WhisperForEmotionClassification.from_encoder(path, ["a", "b"], layer_index=layer_index)
    return model.whisper_ser.encoder.state_dict()


def check_weights(weights, whisper: WhisperModel) -> None:
    stock = whisper.encoder.state_dict()
    assert weights.keys() <= stock.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, stock[name].float()), name


@pytest.mark.parametrize("kind", [WhisperForConditionalGeneration, WhisperForAudioClassification, WhisperModel])
def test_any_transformers_whisper(small_whisper, tmp_path, kind):
    whole = kind(small_whisper.config)
    whole.get_encoder().load_state_dict(small_whisper.encoder.state_dict())
    whole.save_pretrained(tmp_path)
    check_weights(build(tmp_path), small_whisper)


def test_a_sharded_checkpoint_needs_only_the_shards_of_the_encoder(small_whisper, tmp_path):
    WhisperForConditionalGeneration(small_whisper.config)  # the decoder's shards are never looked at
    small_whisper.save_pretrained(tmp_path, max_shard_size="40KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    encoder_shards = {shard for key, shard in index.items() if "encoder." in key}
    assert len(encoder_shards) > 1
    for shard in set(index.values()) - encoder_shards:
        (tmp_path / shard).unlink()
    check_weights(build(tmp_path), small_whisper)
    (tmp_path / min(encoder_shards)).unlink()
    with pytest.raises(EncoderCheckpointError, match=min(encoder_shards)):
        build(tmp_path)


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
def test_a_ctranslate2_folder(small_whisper, tmp_path, dtype, code, layer_index):
    write_ctranslate2(tmp_path / "model.bin", small_whisper, dtype, code)
    rounded = WhisperModel(small_whisper.config)
    rounded.load_state_dict({key: value.to(dtype).float() for key, value in small_whisper.state_dict().items()})
    check_weights(build(tmp_path, layer_index), rounded)
    config = open_encoder(tmp_path).config
    for field in ("num_mel_bins", "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim"):
        assert getattr(config, field) == getattr(small_whisper.config, field)


def test_broken_ctranslate2_files_are_refused(small_whisper, tmp_path):
    path = tmp_path / "model.bin"
    write_ctranslate2(path, small_whisper)
    whole = path.read_bytes()
    other_kind = whole.replace(b"WhisperSpec", b"TransfSpec1")
    for broken in (whole[: len(whole) // 2], whole[:7], b"\x80\x02}q\x00.", other_kind):
        path.write_bytes(broken)
        with pytest.raises(EncoderCheckpointError, match="not a complete CTranslate2 Whisper model"):
            build(tmp_path)


def test_quantised_ctranslate2_files_are_named(small_whisper, tmp_path):
    write_ctranslate2(tmp_path / "model.bin", small_whisper, torch.int8, 1)
    with pytest.raises(EncoderCheckpointError, match="quantised.*int8"):
        build(tmp_path)


def test_what_is_no_whisper_checkpoint_is_named(small_checkpoint, small_whisper, tmp_path):
    with pytest.raises(EncoderCheckpointError, match="no folder"):
        build(tmp_path / "absent")
    with pytest.raises(EncoderCheckpointError, match="none of model.safetensors"):
        build(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(EncoderCheckpointError, match="none of model.safetensors"):
        build(tmp_path)
    small_whisper.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(EncoderCheckpointError, match="'bert' model"):
        build(tmp_path)


def test_a_missing_tensor_is_named(small_whisper, tmp_path):
    small_whisper.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layers.1.fc2.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    build(tmp_path, layer_index=1)
    with pytest.raises(EncoderCheckpointError, match="encoder.layers.1.fc2.weight"):
        build(tmp_path, layer_index=2)


def test_revision_and_token_reach_the_hub(small_checkpoint, monkeypatch):
    asked = []

    def hub(name, filename, revision=None, token=None, **_):
        asked.append((name, revision, token))
        return str(small_checkpoint / filename) if filename == "model.safetensors" else None

    config = lambda name, **asked_with: (json.loads((small_checkpoint / "config.json").read_text()), asked_with)  # noqa: E731
    monkeypatch.setattr(checkpoint_whisper_ser, "cached_file", hub)
    monkeypatch.setattr(checkpoint_whisper_ser.WhisperConfig, "get_config_dict", config)
    WhisperForEmotionClassification.from_encoder("someone/whisper", ["a", "b"], revision="v2", token="secret")
    assert asked == [("someone/whisper", "v2", "secret")]


def test_128_mel_channels_as_whisper_large_v3_has(small_whisper, tmp_path):
    config = type(small_whisper.config)(**{**small_whisper.config.to_dict(), "num_mel_bins": 128})
    whisper = WhisperModel(config)
    whisper.save_pretrained(tmp_path)
    check_weights(build(tmp_path), whisper)


@pytest.mark.real
@pytest.mark.parametrize(("name", "layers", "width"), [("whisper-tiny.en", 4, 384), ("whisper-base", 6, 512)])
def test_real_checkpoints(shared, name, layers, width):
    weights = build(shared / "models" / name, layer_index=layers)
    stock = load_file(shared / "models" / name / "model.safetensors")
    assert weights["conv2.weight"].shape == (width, width, 3)
    assert all(torch.equal(tensor, stock[f"model.encoder.{key}"].float()) for key, tensor in weights.items())
