"""The reference output: for a formula that anyone can evaluate, and it exposes a model that is not the one saved."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser import cli
from whisper_ser.inference.reference_output import (
    VOICES,
    ReferenceOutputError,
    compute_output,
    read_reference_output,
    waveform,
    weight_hashes,
)


@pytest.fixture
def model(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained / "model", tmp_path / "model"))


def change_weight(model: Path, key: str, by: float, hidden: bool = False) -> None:
    """Changes one number among the weights, and the hash expected as well if `hidden`."""
    tensors = load_file(model / "model.safetensors")
    tensors[key].view(-1)[0] += by
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    if hidden:
        known = read_reference_output(model)
        (model / "known_answer.json").write_text(json.dumps({**known, "sha256": weight_hashes(model)}))


def test_the_waveform_is_what_its_formula_says(model):
    asked = read_reference_output(model)["waveform"]
    samples = waveform(asked)
    assert samples.dtype == np.float32 and samples.shape == (round(asked["seconds"] * asked["sampling_rate"]),)
    of = asked["parameters"]
    for n in (0, 1, 777, 50_000, len(samples) - 1):
        t = n / asked["sampling_rate"]
        turns = of["p"] * t + of["w"] * math.sin(2 * math.pi * of["v"] * t)
        voice = sum(math.sin(2 * math.pi * k * turns) / k for k in range(1, of["h"] + 1))
        assert samples[n] == pytest.approx(of["a"] * (1 + math.sin(2 * math.pi * of["s"] * t)) / 2 * voice, abs=1e-6)


def test_the_waveform_is_known_by_a_number_and_earlier_models_by_its_formula(model, capsys):
    known = read_reference_output(model)
    assert known["waveform"]["version"] == 1 and "formula" not in known["waveform"]
    # The text is that of the models which release 0.1.0 saved.
    released = read_reference_output(ROOT / "tests/fixtures/model-0.1.0-qkv")["waveform"]
    assert "version" not in released
    samples = waveform({**known["waveform"], "version": 1})
    earlier = {name: value for name, value in known["waveform"].items() if name != "version"}
    assert np.array_equal(waveform({**earlier, "formula": released["formula"]}), samples)
    for unknown in ({**earlier, "version": 2}, {**earlier, "formula": "x(t) = 0"}, earlier):
        with pytest.raises(ReferenceOutputError, match="reads version 1: use the version of whisper-ser that saved"):
            waveform(unknown)


def test_the_answer_is_the_models_alone_and_in_a_batch(model):
    known = read_reference_output(model)
    audio = waveform(known["waveform"])
    network = WhisperForEmotionClassification.from_pretrained(model)
    batch = WhisperSerFeatureExtractor.from_pretrained(model)([audio, np.tile(audio, 2)], return_tensors="pt")
    with torch.no_grad():
        probabilities = network(**batch).logits[0].softmax(-1).tolist()
    expected = dict(zip(network.config.labels, probabilities, strict=True))
    assert known["probabilities"] == pytest.approx(expected, abs=known["tolerance"] / 10)


def test_the_waveform_is_the_one_that_the_model_is_least_certain_of(model):
    known = read_reference_output(model)
    surest = [
        max(compute_output(model, waveform({**known["waveform"], "parameters": voice})).values()) for voice in VOICES
    ]
    assert max(known["probabilities"].values()) == pytest.approx(min(surest), abs=1e-5)


def test_verify_says_what_it_found(model, capsys):
    assert cli.main(["verify", str(model)]) == 0
    printed = capsys.readouterr().out
    assert weight_hashes(model)["model.safetensors"] in printed and "reference output: as saved" in printed


def test_verify_fails_on_one_changed_weight(model, capsys):
    change_weight(model, "whisper_ser.encoder.layers.0.fc1.weight", 1e-6)
    assert cli.main(["verify", str(model)]) == 1
    message = capsys.readouterr().err
    assert "model.safetensors" in message and weight_hashes(model)["model.safetensors"] in message


def test_a_changed_weight_is_found_by_the_answer_where_the_hash_was_changed_too(model, capsys):
    change_weight(model, "classifier.bias", 0.05, hidden=True)
    assert cli.main(["verify", str(model)]) == 1
    assert "reference waveform" in capsys.readouterr().err


def test_a_changed_setting_is_found(model):
    config = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps({**config, "pad_to_seconds": 30}))
    assert cli.main(["verify", str(model)]) == 1


@pytest.mark.parametrize("content", [None, "{", "[]", '{"sha256": {}, "probabilities": {}}'])
def test_without_a_readable_reference_output_nothing_is_verified(model, content):
    (model / "known_answer.json").unlink()
    if content:
        (model / "known_answer.json").write_text(content)
    with pytest.raises(ReferenceOutputError, match="known_answer.json"):
        read_reference_output(model)


def test_no_weights_are_not_the_right_weights(model):
    (model / "model.safetensors").unlink()
    known = {**read_reference_output(model), "sha256": {}}
    (model / "known_answer.json").write_text(json.dumps(known))
    assert cli.main(["verify", str(model)]) == 1


def test_what_is_neither_folder_nor_hub_id_is_told(capsys):
    assert cli.main(["verify", "./absent"]) == 1
    assert "no folder ./absent" in capsys.readouterr().err
