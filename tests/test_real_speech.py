"""The main job on real speech with real weights: EmoDB's four emotions, whisper-base, the published recipe."""

import json
import random
from pathlib import Path

import numpy as np
import pandas
import pytest
from conftest import RATE, ROOT
from safetensors.torch import load_file
from transformers import pipeline

import whisper_ser
from whisper_ser.audio.decoding import read_audio
from whisper_ser.commands import train as run_train

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
    assert metrics["protocol"]["test_speakers"] == ["15", "16"]
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
def exported(run, tmp_path_factory):
    """The model as ONNX, by precision, and a function from clips to what torch answers."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from whisper_ser.inference.engines.onnx_runtime import OnnxModel

    from whisper_ser.export.onnx import export_onnx

    folder, recognizer = tmp_path_factory.mktemp("onnx"), whisper_ser.load_model(run / "model", "cpu")
    models = {
        precision: OnnxModel(export_onnx(run / "model", folder / f"{precision}.onnx", precision).path)
        for precision in ("float32", "int8")
    }
    return models, lambda clips: np.concatenate([recognizer.classify(recognizer.features([clip])) for clip in clips])


def test_an_export_says_of_speech_what_the_model_says(clips, exported):
    models, torchs = exported
    audio = [read_audio(path) for path in clips["path"]]
    expected = torchs(audio)
    floats = np.concatenate([models["float32"].probabilities([clip]) for clip in audio])
    assert np.abs(floats - expected).max() < 1e-4
    integers = np.concatenate([models["int8"].probabilities([clip]) for clip in audio])
    # Eight bits move a clip between two labels by more than others: its probabilities are the steepest.
    assert np.mean(np.abs(integers - expected).max(1) < 0.02) >= 0.9
    assert np.mean(integers.argmax(1) == expected.argmax(1)) >= 0.97


def test_an_export_hears_two_minutes_and_batches_as_the_model_does(clips, exported):
    models, torchs = exported
    rng = random.Random(2)
    audio = [joined(list(clips["path"]), seconds, rng) for seconds in (120, 1.1, 7.3, 33)]
    expected = torchs(audio)
    assert np.abs(models["float32"].probabilities(audio) - expected).max() < 1e-4
    assert np.abs(models["float32"].probabilities(audio[:1]) - expected[:1]).max() < 1e-4
    assert np.mean(np.abs(models["int8"].probabilities(audio) - expected)) < 0.02
