"""The main job on real speech with real weights: EmoDB's four emotions, whisper-base, the published recipe."""

import json
import random
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import RATE, ROOT
from safetensors.torch import load_file
from transformers import pipeline

import whisper_ser
from whisper_ser.audio.decoding import read_audio
from whisper_ser.commands import train as run_train
from whisper_ser.export.onnx import export_onnx
from whisper_ser.inference.model import load_saved

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def run(shared, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("real") / "emodb4"
    recipe = str(ROOT / "recipes/emodb4.json")
    data, encoder = shared / "data/emodb4", shared / "models/whisper-base"
    run_train.main([recipe, "--data_dir", str(data), "--encoder", str(encoder), "--output_dir", str(output)])
    return output


@pytest.fixture(scope="module")
def classifier(run):
    return pipeline("audio-classification", model=str(run / "model"))


@pytest.fixture(scope="module")
def clips(run) -> pandas.DataFrame:
    """The clips of the speakers that the model has not heard."""
    table = pandas.read_parquet(run / "predictions.parquet")
    return table[table["part"] == "test"]


def joined(paths: list[str], seconds: float, rng: random.Random) -> np.ndarray:
    """Returns the clips in random orders, one after another, until `seconds` are full."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        parts += [read_audio(path) for path in rng.sample(paths, len(paths))]
    return np.concatenate(parts)[: round(seconds * RATE)]


def test_held_out_speakers_are_understood(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["folds"][0]["test_speakers"] == ["15", "16"]
    assert metrics["test"]["ua"] >= 0.85


def test_the_encoder_stayed_whispers(run, shared):
    stock = load_file(shared / "models/whisper-base/model.safetensors")
    for key, tensor in load_file(run / "model/model.safetensors").items():
        if ".encoder." in key:
            assert (tensor == stock["model.encoder." + key.split(".encoder.")[1]].float()).all(), key


def test_long_recordings_are_classified_about_as_well_as_clips(clips, classifier):
    rng = random.Random(0)
    right = []
    for (_, emotion), rows in clips.groupby(["speaker", "emotion"]):
        for seconds in (20, 40, 65, 90):
            recording = joined(list(rows["path"]), seconds, rng)
            right.append(classifier(recording)[0]["label"] == emotion)
    assert len(right) == 32
    on_clips = (clips["emotion"] == clips["predicted"]).mean()
    assert np.mean(right) >= on_clips - 0.05


def test_a_long_recording_in_a_batch_is_answered_as_alone(clips, classifier):
    rng = random.Random(1)
    recordings = [joined(list(clips["path"]), seconds, rng) for seconds in (33, 2.5, 61)]
    together = classifier(recordings, batch_size=3)
    for batched, recording in zip(together, recordings, strict=True):
        alone = {answer["label"]: answer["score"] for answer in classifier(recording)}
        assert {answer["label"]: answer["score"] for answer in batched} == pytest.approx(alone, abs=1e-5)


def test_predict_says_of_five_minutes_what_the_stock_pipeline_says(run, classifier, clips):
    audio = np.concatenate([read_audio(path) for path in clips["path"]] * 3)[: 300 * RATE]
    stock = {row["label"]: row["score"] for row in classifier(audio, top_k=None)}
    (ours,) = whisper_ser.predict(audio, run / "model")
    assert ours.probabilities == pytest.approx(stock, abs=1e-4)


def test_joined_emotions_can_be_read_off_a_timeline(run, clips):
    """At least 88 % of the seconds of speech of held-out speakers, 0.5 s apart, carry the label of their clip."""
    parts, spoken, begin = [], [], 0
    for path, emotion in clips.sample(frac=1, random_state=0)[["path", "emotion"]].itertuples(index=False):
        audio = read_audio(path)
        spoken.append((begin / RATE, (begin + len(audio)) / RATE, emotion))
        parts += [audio, np.zeros(RATE // 2, np.float32)]
        begin += len(audio) + RATE // 2
    found = whisper_ser.timeline(np.concatenate(parts), run / "model")
    right = sum(
        max(0.0, min(end, segment.end) - max(start, segment.start))
        for start, end, emotion in spoken
        for segment in found.segments
        if segment.label == emotion
    )
    assert right / sum(end - start for start, end, _ in spoken) >= 0.88


@pytest.fixture(scope="module")
def by_torch(run):
    """From clips to what torch answers."""
    model, extractor = load_saved(run / "model")

    @torch.inference_mode()
    def answer(audio: list[np.ndarray]) -> np.ndarray:
        logits = [model.eval()(**extractor(clip, return_tensors="pt")).logits for clip in audio]
        return torch.cat(logits).softmax(-1).numpy()

    return answer


@pytest.mark.parametrize("form", ["folder", "exported"])
def test_the_engine_and_an_export_say_of_speech_what_the_model_says(run, clips, by_torch, tmp_path, form):
    source = run / "model" if form == "folder" else export_onnx(run / "model", tmp_path / "model.onnx").path
    model = whisper_ser.load_model(source, "cpu")
    audio = [read_audio(path) for path in clips["path"]]
    found = np.concatenate([model.probabilities([clip]) for clip in audio])
    assert np.abs(found - by_torch(audio)).max() < 1e-4
    rng = random.Random(2)
    audio = [joined(list(clips["path"]), seconds, rng) for seconds in (120, 1.1, 7.3, 33)]
    assert np.abs(model.probabilities(audio) - by_torch(audio)).max() < 1e-4


def test_int8_says_of_speech_nearly_what_the_model_says(run, clips, by_torch):
    model = whisper_ser.load_model(run / "model", "cpu", "int8")
    audio = [read_audio(path) for path in clips["path"]]
    found, expected = np.concatenate([model.probabilities([clip]) for clip in audio]), by_torch(audio)
    assert np.abs(found - expected).mean() < 0.02
    certain = expected.max(1) > 0.8
    assert (found.argmax(1) == expected.argmax(1))[certain].all()
