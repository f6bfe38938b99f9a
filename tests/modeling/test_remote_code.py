"""A saved folder in a process that does not have this package: remote code as a stranger meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RATE, speechlike
from transformers import pipeline

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor

STRANGER = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_whisper_ser", "whisper_ser"):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
try:
    import modeling_whisper_ser
    sys.exit("this process has the package")
except ModuleNotFoundError:
    pass

import numpy as np, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

folder, waveform = sys.argv[1:]
audio = np.load(waveform)
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
features = extractor(audio, sampling_rate=16000, return_tensors="pt")
answers = {"config": AutoConfig.from_pretrained(folder, trust_remote_code=True).pooling_type}
for auto in (AutoModelForAudioClassification, AutoModel):
    model = auto.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        answers[auto.__name__] = model(**features).logits[0].tolist()
classifier = pipeline("audio-classification", model=folder, trust_remote_code=True)
answers["pipeline"] = classifier(audio)
answers["batched"] = classifier([audio, audio[:9000]], batch_size=2)
answers["modules"] = [name for name in sys.modules if name.split(".")[0] == "modeling_whisper_ser"]
print(json.dumps(answers))
"""


@pytest.fixture
def saved(small_checkpoint, tmp_path) -> Path:
    folder = tmp_path / "model"
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, ["angry", "happy", "sad"], layer_index=2)
    torch.nn.init.normal_(model.whisper_ser.standardisation.mean)
    model.save_pretrained(folder)
    WhisperSerFeatureExtractor().save_pretrained(folder)
    return folder


def test_a_stranger_gets_the_same_logits(saved, tmp_path):
    audio = speechlike(6.3)
    np.save(tmp_path / "audio.npy", audio)
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, str(saved), str(tmp_path / "audio.npy")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout.splitlines()[-1])
    model = WhisperForEmotionClassification.from_pretrained(saved)
    extractor = WhisperSerFeatureExtractor.from_pretrained(saved)
    with torch.no_grad():
        logits, short = (
            model(**extractor(clip, sampling_rate=RATE, return_tensors="pt")).logits[0]
            for clip in (audio, audio[:9000])
        )
    assert answers["config"] == "qkv" and answers["modules"] == []
    for auto in ("AutoModelForAudioClassification", "AutoModel"):
        assert answers[auto] == pytest.approx(logits.tolist(), abs=1e-5)
    expected = dict(zip(["angry", "happy", "sad"], logits.softmax(-1).tolist(), strict=True))
    assert {a["label"]: a["score"] for a in answers["pipeline"]} == pytest.approx(expected, abs=1e-5)
    assert {a["label"]: a["score"] for a in answers["batched"][0]} == pytest.approx(expected, abs=1e-5)
    assert max(a["score"] for a in answers["batched"][1]) == pytest.approx(short.softmax(-1).max().item(), abs=1e-5)


def test_the_folder_holds_the_model_and_no_training_state(saved):
    assert {file.name for file in saved.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "configuration_whisper_ser.py",
        "encoder_whisper_ser.py",
        "feature_extraction_whisper_ser.py",
        "modeling_whisper_ser.py",
        "pooling_whisper_ser.py",
    }


def test_the_installed_package_needs_no_remote_code(saved):
    audio = speechlike(2.0)
    classifier = pipeline("audio-classification", model=str(saved))
    assert type(classifier.model) is WhisperForEmotionClassification
    assert len(classifier(audio)) == 3


def test_a_model_loaded_as_remote_code_saves_itself_whole(saved, tmp_path):
    script = (
        "import sys; from transformers import AutoModelForAudioClassification as Auto;"
        "Auto.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])"
    )
    again = tmp_path / "again"
    subprocess.run(
        [sys.executable, "-c", script, str(saved), str(again)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
        timeout=300,
    )
    modules = {file.name for file in saved.glob("*.py")} - {"feature_extraction_whisper_ser.py"}
    assert modules <= {file.name for file in again.iterdir()}
    auto_map = json.loads((again / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForAudioClassification"}
