"""Encoders from every kind of Whisper checkpoint, as transformers saves it."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForAudioClassification, WhisperForConditionalGeneration, WhisperModel

from modeling_whisper_ser import EncoderCheckpointError, WhisperForEmotionClassification, encoder_whisper_ser
from modeling_whisper_ser.encoder_whisper_ser import load_whisper_config


def build(path, layer_index=2, **fields):
    model = WhisperForEmotionClassification.from_encoder(path, ["a", "b"], layer_index=layer_index, **fields)
    return model.whisper_ser.encoder.state_dict()


def check_weights(weights, whisper: WhisperModel) -> None:
    stock = whisper.encoder.state_dict()
    assert weights.keys() <= stock.keys()
    for name, tensor in weights.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, stock[name].float()), name


@pytest.mark.parametrize("kind", [WhisperForConditionalGeneration, WhisperForAudioClassification, WhisperModel])
def test_any_transformers_whisper(small_whisper, tmp_path, kind):
    whole = kind(small_whisper.config)
    whole.get_encoder().load_state_dict(small_whisper.encoder.state_dict())
    whole.save_pretrained(tmp_path)
    check_weights(build(tmp_path), small_whisper)


@pytest.mark.parametrize("layer_index", [1, 2, 3])
def test_only_the_layers_that_are_read_are_built(small_checkpoint, small_whisper, layer_index, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        weights = build(small_checkpoint, layer_index)
    layers = {name.split(".")[1] for name in weights if name.startswith("layers.")}
    assert layers == {str(layer) for layer in range(layer_index)}
    assert ("layer_norm.weight" in weights) == (layer_index == 3)
    check_weights(weights, small_whisper)
    assert not caplog.records, "the decoder and higher layers are left out on purpose"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_become_float32(small_whisper, tmp_path, dtype):
    half = WhisperModel(small_whisper.config)
    half.load_state_dict(small_whisper.state_dict())
    half.to(dtype).save_pretrained(tmp_path)
    check_weights(build(tmp_path), half)


def test_the_encoder_and_the_model_share_one_config(small_checkpoint):
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, ["a", "b"])
    assert model.whisper_ser.encoder.config is model.config
    assert model.whisper_ser.encoder.layers[0].self_attn.config is model.config.encoder_config
    assert model.config.encoder_config._attn_implementation == "sdpa"
    assert model.name_or_path == "", "a new model is not the checkpoint that its encoder comes from"


def test_a_seed_gives_the_head_that_it_gives_a_model_with_a_random_encoder(small_checkpoint):
    torch.manual_seed(5)
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, ["a", "b"], layer_index=3)
    torch.manual_seed(5)
    random = WhisperForEmotionClassification(model.config).state_dict()
    head = {name: tensor for name, tensor in model.state_dict().items() if ".encoder." not in name}
    assert head and all(torch.equal(tensor, random[name]) for name, tensor in head.items())


def test_a_sharded_checkpoint(small_whisper, tmp_path):
    small_whisper.save_pretrained(tmp_path, max_shard_size="40KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    encoder_shards = {shard for key, shard in index.items() if "encoder." in key}
    assert len(encoder_shards) > 1
    check_weights(build(tmp_path), small_whisper)
    (tmp_path / min(encoder_shards)).unlink()
    with pytest.raises(EncoderCheckpointError, match=min(encoder_shards)):
        build(tmp_path)


def test_what_is_no_whisper_checkpoint_is_named(small_whisper, tmp_path):
    with pytest.raises(EncoderCheckpointError, match=r"absent'.*config.json and model.safetensors"):
        build(tmp_path / "absent")
    with pytest.raises(EncoderCheckpointError, match="no config.json"):
        build(tmp_path)
    small_whisper.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderCheckpointError, match="PyTorch pickles are not read"):
        build(tmp_path)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(EncoderCheckpointError, match="'bert' model"):
        build(tmp_path)


def test_a_ctranslate2_model_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    with pytest.raises(EncoderCheckpointError, match="no config.json.*--encoder FOLDER, and by .*ctranslate2.convert"):
        build(tmp_path)
    for config in ({}, {"model_type": "whisper"}):  # as faster-whisper's, and as some write it
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(EncoderCheckpointError, match="converted by training with --encoder FOLDER"):
            build(tmp_path)


def test_the_config_alone_needs_no_weights(small_checkpoint, small_whisper, tmp_path):
    (tmp_path / "config.json").write_bytes((small_checkpoint / "config.json").read_bytes())
    config = load_whisper_config(tmp_path)
    assert (config.encoder_layers, config.d_model) == (3, small_whisper.config.d_model)


def test_weights_that_do_not_fit_the_config_are_named(small_checkpoint, tmp_path):
    config = json.loads((small_checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_ffn_dim": 48}))
    (tmp_path / "model.safetensors").write_bytes((small_checkpoint / "model.safetensors").read_bytes())
    with pytest.raises(EncoderCheckpointError, match=r"layers.0.fc1.bias is \(64,\), expected \(48,\)"):
        build(tmp_path)


def test_a_damaged_file_is_named(small_checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes((small_checkpoint / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((small_checkpoint / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(EncoderCheckpointError, match=str(tmp_path)):
        build(tmp_path)


def test_a_missing_tensor_is_named(small_whisper, tmp_path):
    small_whisper.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layers.1.fc2.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    build(tmp_path, layer_index=1)
    with pytest.raises(EncoderCheckpointError, match="encoder.layers.1.fc2.weight"):
        build(tmp_path, layer_index=2)


def test_hub_arguments_reach_config_and_weights(small_checkpoint, tmp_path, monkeypatch):
    asked = {"revision": "v2", "token": "secret", "cache_dir": str(tmp_path), "local_files_only": True}
    seen = []

    def read_config(name, **hub):
        seen.append((name, {key: hub[key] for key in asked}))
        return json.loads((small_checkpoint / "config.json").read_text()), hub

    load = encoder_whisper_ser.WhisperCheckpoint.from_pretrained

    def read_weights(name, **arguments):
        seen.append((name, {key: arguments.pop(key) for key in asked}))
        assert arguments["use_safetensors"] is True
        return load(small_checkpoint, **arguments)

    monkeypatch.setattr(encoder_whisper_ser.WhisperConfig, "get_config_dict", read_config)
    monkeypatch.setattr(encoder_whisper_ser.WhisperCheckpoint, "from_pretrained", read_weights)
    build("someone/whisper", **asked)
    assert seen == [("someone/whisper", asked)] * 2


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
