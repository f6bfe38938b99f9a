"""`whisper_ser.predict`: the stock pipeline's answers for any recordings, in order, with the bad ones told apart."""

import os
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import soundfile
from conftest import RATE, save_small_model, speechlike
from transformers import WhisperConfig, pipeline

import whisper_ser
from whisper_ser import cli
from whisper_ser.audio.decoding import read_audio
from whisper_ser.commands import sharded as sharded_command
from whisper_ser.errors import AudioFileError, InferenceError
from whisper_ser.inference import sharded
from whisper_ser.inference.engines import session
from whisper_ser.inference.engines.exported import ExportedModel
from whisper_ser.inference.model import load_model
from whisper_ser.inference.outputs import Failure


@pytest.fixture(scope="module")
def recognizer(small_model):
    return whisper_ser.load_model(small_model, "cpu")


def stock(folder, waveform) -> dict[str, float]:
    classifier = pipeline("audio-classification", model=str(folder), device="cpu")
    return {row["label"]: row["score"] for row in classifier(waveform, top_k=None)}


def close(ours: dict[str, float], theirs: dict[str, float], tolerance: float = 1e-5) -> bool:
    return ours.keys() == theirs.keys() and all(abs(ours[key] - theirs[key]) <= tolerance for key in ours)


def recording(seconds: float) -> np.ndarray:
    """A recording whose first half is so quiet that Whisper's floor, set by the second half, cuts into it."""
    audio = speechlike(seconds)
    audio[: len(audio) // 2] *= 1e-3
    return audio


@pytest.mark.parametrize("seconds", [0.03, 1.234, 59.9, 61.237, 300.0])
def test_predictions_are_those_of_the_stock_pipeline(small_model, recognizer, tmp_path, seconds):
    soundfile.write(tmp_path / "a.wav", recording(seconds), RATE, subtype="FLOAT")
    (ours,) = whisper_ser.predict(tmp_path / "a.wav", recognizer)
    assert close(ours.probabilities, stock(small_model, read_audio(tmp_path / "a.wav")))
    assert ours.seconds == pytest.approx(seconds, abs=1e-4)


@pytest.mark.parametrize(
    "fields",
    [{"frame_averaging": 3}, {"chunk_seconds": 1.3}, {"pooling_type": "statistics"}, {"pooling_type": "attentive"}],
)
def test_long_recordings_follow_the_stock_pipeline_whatever_the_model(small_checkpoint, tmp_path, fields):
    folder = save_small_model(small_checkpoint, tmp_path, **fields)
    audio = recording(75.31)
    assert close(whisper_ser.predict(audio, folder)[0].probabilities, stock(folder, audio))


def test_a_model_that_pads_hears_what_the_stock_pipeline_hears(small_checkpoint, tmp_path):
    folder = save_small_model(small_checkpoint, tmp_path, pad_to_seconds=2.0)
    for audio in (speechlike(0.7), speechlike(61.0)):
        assert close(whisper_ser.predict(audio, folder)[0].probabilities, stock(folder, audio))


@pytest.mark.parametrize(("rate", "suffix"), [(8000, "wav"), (44100, "flac"), (48000, "ogg"), (22050, "aiff")])
def test_any_rate_and_format_is_read(small_model, recognizer, tmp_path, rate, suffix):
    path = tmp_path / f"a.{suffix}"
    time = np.arange(62 * rate) / rate
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        # libsndfile's encoder of OGG crashes on long blocks.
        for block in np.array_split(0.3 * np.sin(2 * np.pi * (200 + 20 * np.sin(time)) * time), 62):
            file.write(block)
    assert close(whisper_ser.predict(path, recognizer)[0].probabilities, stock(small_model, read_audio(path)), 1e-4)


def test_an_array_answers_as_the_file_of_its_rate(recognizer, tmp_path):
    audio = speechlike(2.0)
    soundfile.write(tmp_path / "a.wav", audio, 22050, subtype="FLOAT")
    of_array = whisper_ser.predict(audio, recognizer, sampling_rate=22050)[0]
    assert close(of_array.probabilities, whisper_ser.predict(tmp_path / "a.wav", recognizer)[0].probabilities)
    assert of_array.file == "audio 1"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_come_in_the_order_given_whatever_the_batches(recognizer, batch_size):
    clips = [speechlike(seconds, 90 + 40 * n) for n, seconds in enumerate((0.5, 7.0, 0.4, 62.0, 3.0, 0.5, 1.0))]
    together = whisper_ser.predict(clips, recognizer, batch_size=batch_size)
    assert [one.file for one in together] == [f"audio {n}" for n in range(1, 8)]
    for clip, one in zip(clips, together, strict=True):
        assert close(one.probabilities, whisper_ser.predict(clip, recognizer)[0].probabilities)


def test_channels_are_mixed_or_answered_for_one_by_one(recognizer, tmp_path):
    left, right = speechlike(1.5, 90), speechlike(1.5, 250, seed=3)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    apart = whisper_ser.predict(tmp_path / "two.wav", recognizer, channels="separate")
    assert [one.channel for one in apart] == [1, 2]
    for one, channel in zip(apart, (left, right), strict=True):
        assert close(one.probabilities, whisper_ser.predict(channel, recognizer)[0].probabilities)
    (mixed,) = whisper_ser.predict(tmp_path / "two.wav", recognizer)
    assert mixed.channel is None
    assert close(mixed.probabilities, whisper_ser.predict((left + right) / 2, recognizer)[0].probabilities)


def test_top_k_keeps_the_most_probable_labels(recognizer):
    (full,) = whisper_ser.predict(speechlike(1.0), recognizer)
    (cut,) = whisper_ser.predict(speechlike(1.0), recognizer, top_k=2)
    assert list(full.probabilities.values()) == sorted(full.probabilities.values(), reverse=True)
    assert sum(full.probabilities.values()) == pytest.approx(1)
    assert list(cut.probabilities.items()) == list(full.probabilities.items())[:2]
    assert (cut.label, cut.score) == (full.label, full.score) == next(iter(full.probabilities.items()))


def test_it_abstains_below_the_threshold_and_not_at_it(recognizer):
    (sure,) = whisper_ser.predict(speechlike(1.0), recognizer)
    (at,) = whisper_ser.predict(speechlike(1.0), recognizer, abstain_below=sure.score)
    (below,) = whisper_ser.predict(speechlike(1.0), recognizer, abstain_below=sure.score + 1e-3)
    assert at == sure
    assert below.label == "uncertain"
    assert (below.score, below.probabilities) == (sure.score, sure.probabilities)


@pytest.fixture
def bad_files(tmp_path) -> dict[str, str]:
    """Files that cannot be used, and what has to be said of them."""
    good = speechlike(65.0)
    late_nan = good.copy()
    late_nan[-1] = np.nan
    for name, audio in (("nan", late_nan), ("mute", np.zeros(70 * RATE)), ("short", good[:399]), ("empty", good[:0])):
        soundfile.write(tmp_path / f"{name}.wav", audio, RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no audio")
    said = {"nan": "NaN", "mute": "silent", "short": "24.9 ms", "empty": "no samples", "text": "cannot be read"}
    return {str(tmp_path / f"{name}.wav"): words for name, words in said.items()} | {"absent.wav": "does not exist"}


def test_bad_files_are_told_apart_and_the_others_answered(recognizer, bad_files, tmp_path):
    soundfile.write(tmp_path / "good.wav", speechlike(1.0), RATE)
    given = [*bad_files, str(tmp_path / "good.wav")]
    results = list(whisper_ser.predict_each(given, recognizer))
    assert [one.file for one in results] == given
    for result, words in zip(results[:-1], bad_files.values(), strict=True):
        assert isinstance(result, Failure)
        assert words in result.reason
    assert results[-1].label in recognizer.labels
    with pytest.raises(AudioFileError, match="NaN"):
        whisper_ser.predict(given, recognizer)


@pytest.mark.parametrize(
    "audio", [np.zeros((2, 3, 4)), np.ones(RATE, dtype=np.int16), np.full(RATE, np.inf)], ids=["3-d", "int", "inf"]
)
def test_arrays_that_are_no_audio_are_refused(recognizer, audio):
    with pytest.raises(AudioFileError, match="audio 1"):
        whisper_ser.predict(audio, recognizer)


@pytest.mark.parametrize(
    "arguments", [{"top_k": 0}, {"abstain_below": 1.5}, {"batch_size": 0}, {"channels": "left"}], ids=str
)
def test_arguments_that_cannot_be_meant_are_refused(recognizer, arguments):
    with pytest.raises(InferenceError, match=next(iter(arguments))):
        whisper_ser.predict(speechlike(0.5), recognizer, **arguments)


def test_no_code_of_a_model_folder_runs(small_checkpoint, tmp_path):
    folder = save_small_model(small_checkpoint, tmp_path / "model")
    for path in folder.glob("*.py"):
        path.write_text("raise SystemExit('ran')")
    assert whisper_ser.predict(speechlike(0.5), folder)


def test_another_kind_of_model_is_refused(tmp_path):
    WhisperConfig().save_pretrained(tmp_path)
    with pytest.raises(InferenceError, match="'whisper' model"):
        whisper_ser.load_model(tmp_path)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, whisper_ser; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'soundfile')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="predickt"):
        _ = whisper_ser.predickt


def test_a_model_named_answers_as_one_that_was_loaded(small_model, recognizer):
    clips = [speechlike(seconds, 120, 3) for seconds in (0.4, 1.3, 2.6)]
    named = whisper_ser.predict(clips, small_model, device="cpu")
    for one, other in zip(named, whisper_ser.predict(clips, recognizer), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_an_exported_file_answers_as_its_model(small_model, recognizer, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from whisper_ser.export.onnx import export_onnx

    file = tmp_path / "model.onnx"
    export_onnx(small_model, file)
    # One is longer than what a model on torch reads stretch by stretch.
    clips = [speechlike(1.3, 120, 3), np.tile(speechlike(2.0, 90, 4), 31)]
    for one, other in zip(whisper_ser.predict(clips, file), whisper_ser.predict(clips, recognizer), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4) and one.seconds == other.seconds
    soundfile.write(tmp_path / "a.wav", clips[0], 16000)
    assert cli.main(["predict", str(tmp_path / "a.wav"), "--model", str(file), "--format", "csv"]) == 0
    assert "a.wav" in capsys.readouterr().out
    shards = ["predict", str(tmp_path / "a.wav"), "--model", str(file), "--output_dir", str(tmp_path / "answers")]
    assert cli.main(shards) == 0 and (tmp_path / "answers" / "predictions.parquet").is_file()
    for more, words in (
        (["--precision", "float32"], "a precision of its own"),
        (["--plot", str(tmp_path / "a.png")], "an exported model does not return"),
    ):
        assert cli.main(["predict", str(tmp_path / "a.wav"), "--model", str(file), *more]) != 0
        assert words in capsys.readouterr().err
    assert cli.main(["timeline", str(tmp_path / "a.wav"), "--model", str(file)]) != 0
    assert "whole recordings only" in capsys.readouterr().err


def test_threads_are_those_that_were_asked_for_else_the_cores_there_are(monkeypatch):
    for given, expected in (("3", 3), ("2,1", 2), ("", len(os.sched_getaffinity(0))), ("no", os.cpu_count())):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert session.thread_count() == expected


@pytest.mark.parametrize("exported", [False, True])
def test_each_of_several_processes_has_its_share_and_its_gpu(tmp_path, monkeypatch, exported):
    monkeypatch.setattr("whisper_ser.commands.sharded.has_accelerator", lambda: True)
    arguments = Namespace(model=str(tmp_path / "model.onnx") if exported else str(tmp_path), device=None)
    assert sharded_command.share(arguments) == (0, 1) and arguments.device is None
    for name, value in (("WORLD_SIZE", "3"), ("RANK", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert sharded_command.share(arguments) == (2, 3)
    assert arguments.device == (None if exported else "cuda:1")
    monkeypatch.delenv("RANK")
    with pytest.raises(InferenceError, match="start them with torchrun"):
        sharded_command.share(arguments)


def test_long_recordings_do_not_wait_for_others_of_like_length(small_model, tmp_path):
    asked = []

    class Exported(ExportedModel):
        labels, sampling_rate = ["a", "b"], RATE

        def __init__(self):
            self.path = tmp_path / "model.onnx"

        def probabilities(self, clips):
            asked.append([round(len(clip) / RATE) for clip in clips])
            return np.full((len(clips), 2), 0.5)

    whisper_ser.predict([np.tile(speechlike(2.0), count) for count in (1, 40, 2, 35)], Exported())
    assert asked[:2] == [[80], [70]] and sorted(asked[2]) == [2, 4]
    with pytest.raises(InferenceError, match="for whole recordings only"):
        whisper_ser.timeline(speechlike(2.0), Exported())


def test_answers_in_another_precision_are_other_shards(small_model, tmp_path):
    names = {
        shard.path
        for precision in (None, "float32", "int8")
        for shard in sharded.shards_of(
            [str(tmp_path / "a.wav")], tmp_path, load_model(small_model, "cpu", precision), sharded.ShardOptions()
        )
    }
    assert len(names) == 2
