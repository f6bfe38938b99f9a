"""Corpora, audio files and splits: what is wrong is named, all of it at once."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE, speechlike, write_corpus, write_table

from whisper_ser.audio.decoding import channel_count, decode, read_audio, reads_video
from whisper_ser.commands import train as run_train
from whisper_ser.data.audio_index import index_audio
from whisper_ser.data.corpora.table import load_table
from whisper_ser.data.leakage import LeakError
from whisper_ser.data.splits import folds, split_by_speaker
from whisper_ser.errors import AudioFileError, CorpusError, ProtocolError
from whisper_ser.io import replacing


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metadata.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_read_as_text(corpus):
    dataset = load_table(corpus)
    assert {"path", "emotion", "speaker"} <= set(dataset.column_names)
    assert dataset.features["emotion"].names == ["calm", "excited"]
    assert len(dataset) == 36 and sorted(set(dataset["speaker"])) == ["00", "01", "02", "03", "04", "05"]
    assert all(Path(path).is_file() for path in dataset["path"])


def test_labels_come_in_the_order_given(corpus):
    assert load_table(corpus, labels=["excited", "calm"]).features["emotion"].names == ["excited", "calm"]


def test_all_bad_rows_are_named_together(tmp_path):
    folder = write_corpus(tmp_path / "corpus")
    rows = rows_of(folder)
    rows[0]["emotion"] = "clam"
    rows[3]["speaker"] = " "
    rows[4]["file_name"] = "absent.wav"
    rows[5]["file_name"] = "../outside.wav"
    rows[6]["file_name"] = rows[7]["file_name"]
    write_table(folder, rows)
    with pytest.raises(CorpusError) as error:
        load_table(folder, labels=["calm", "excited"])
    for part in (
        "5 rows",
        "line 2: unknown emotion 'clam'",
        "expected calm, excited",
        "line 5: speaker is empty",
        "line 6: ",
        "absent.wav",
        "line 7: ",
        "outside.wav",
        f"{rows[7]['file_name']} is listed 2 times",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,emotion\na.wav,sad\n", "no column named file_name .*it has name, emotion"),
        ("file_name,feeling\na.wav,sad\n", "no column named emotion .*it has file_name, feeling"),
        ("", "no column named file_name .*it has nothing"),
        ("file_name,emotion,speaker\n", "no rows"),
        (b"\xff\xfe\x00\x01", "not a CSV table in UTF-8"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path, text, message):
    (tmp_path / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CorpusError, match=message):
        load_table(tmp_path)


def test_one_emotion_is_nothing_to_tell_apart(corpus, tmp_path):
    folder = write_corpus(tmp_path / "corpus")
    write_table(folder, [row for row in rows_of(folder) if row["emotion"] == "calm"])
    with pytest.raises(CorpusError, match="only one emotion, calm"):
        load_table(folder)


def test_a_speaker_disjoint_split_needs_speakers(tmp_path):
    folder = write_corpus(tmp_path / "corpus")
    write_table(folder, [{"file_name": row["file_name"], "emotion": row["emotion"]} for row in rows_of(folder)])
    with pytest.raises(ProtocolError, match="add a column speaker"):
        split_by_speaker(load_table(folder))


def test_a_folder_without_table_is_named(tmp_path):
    with pytest.raises(CorpusError, match="metadata.csv"):
        load_table(tmp_path)


@pytest.mark.parametrize(("extension", "subtype"), [("wav", "PCM_16"), ("flac", None), ("ogg", None), ("mp3", None)])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_formats_rates_and_channels(tmp_path, extension, subtype, rate, channels):
    time = np.arange(2 * rate) / rate
    tone = 0.4 * np.sin(2 * np.pi * 440 * time)
    path = tmp_path / f"tone.{extension}"
    soundfile.write(path, np.stack([tone] * channels, axis=1), rate, subtype=subtype)
    audio = read_audio(path)
    assert audio.dtype == np.float32 and audio.ndim == 1
    # Lossy codecs add some frames of delay and padding.
    assert len(audio) == pytest.approx(2 * RATE, abs=0.08 * RATE)
    spectrum = np.abs(np.fft.rfft(audio[RATE // 2 : RATE // 2 + RATE]))
    assert spectrum.argmax() == pytest.approx(440, abs=1)
    assert np.abs(audio).max() == pytest.approx(0.4, abs=0.08)


def test_channels_are_averaged(tmp_path):
    left, right = speechlike(1.0), speechlike(1.0, 200, seed=1)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "stereo.wav"), (left + right) / 2, atol=1e-6)


def write_bad_audio(folder: Path) -> dict[str, str]:
    """Writes one file of each kind of bad audio; returns what is said of each."""
    folder.mkdir(exist_ok=True)
    (folder / "text.wav").write_text("not audio at all")
    (folder / "nothing.wav").write_bytes(b"")
    soundfile.write(folder / "empty.wav", np.zeros(0), RATE)
    soundfile.write(folder / "silent.flac", np.zeros(RATE), RATE)
    soundfile.write(folder / "nan.wav", np.array([0.1, np.nan] * RATE), RATE, subtype="FLOAT")
    soundfile.write(folder / "infinite.wav", np.array([0.1, np.inf] * RATE), RATE, subtype="FLOAT")
    soundfile.write(folder / "one_sample.wav", np.array([0.5]), RATE)
    return {
        "text.wav": "cannot be read as audio",
        "nothing.wav": "cannot be read as audio",
        "empty.wav": "has no samples",
        "silent.flac": "is silent",
        "nan.wav": "NaN",
        "infinite.wav": "infinite",
        "one_sample.wav": "too short",
    }


def test_each_bad_file_is_named_with_its_reason(tmp_path):
    for name, reason in write_bad_audio(tmp_path).items():
        with pytest.raises(AudioFileError, match=reason):
            read_audio(tmp_path / name)


def test_all_bad_files_are_listed_before_training_begins(tmp_path, small_checkpoint):
    from whisper_ser.commands import train as run_train

    folder = write_corpus(tmp_path / "corpus", speakers=3)
    reasons = write_bad_audio(folder)
    bad = [{"file_name": name, "emotion": "calm", "speaker": "00"} for name in reasons]
    write_table(folder, rows_of(folder) + bad)
    with pytest.raises(CorpusError) as error:
        run_train.main(
            ["--data_dir", str(folder), "--encoder", str(small_checkpoint), "--output_dir", str(tmp_path / "run")]
        )
    assert f"{len(reasons)} of {18 + len(reasons)} audio files" in str(error.value)
    for name, reason in reasons.items():
        assert any(name in line and reason in line for line in str(error.value).splitlines())


def test_long_lists_are_cut_but_counted(tmp_path):
    paths = [str(tmp_path / f"{n}.wav") for n in range(1050)]
    with pytest.raises(CorpusError, match="1050 of 1050") as error:
        index_audio(paths, progress=False)
    assert "999.wav" in str(error.value) and "and 50 more" in str(error.value)


def test_no_speaker_is_in_two_parts(corpus):
    dataset = load_table(corpus)
    for seed in range(20):
        split = split_by_speaker(dataset, validation_fraction=0.2, seed=seed)
        parts = [set(part["speaker"]) for part in split]
        assert [len(part) for part in parts] == [3, 1, 2]
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert sorted(path for part in split for path in part["path"]) == sorted(dataset["path"])
    draws = {tuple(sorted(set(split_by_speaker(dataset, seed=seed).test["speaker"]))) for seed in range(20)}
    assert len(draws) > 3


def test_validation_is_a_share_of_the_speakers_who_do_not_test(corpus):
    dataset = load_table(corpus)
    for fraction, expected in ((0.0, 0), (0.1, 1), (0.5, 2), (0.75, 3)):
        # Two of six speakers test, however they were chosen.
        for test in ({"test_speakers": ["00", "01"]}, {"test_fraction": 0.3}):
            split = split_by_speaker(dataset, validation_fraction=fraction, **test)
            assert len(set(split.validation["speaker"])) == expected
        (fold, *_) = folds(dataset, "speaker_groups", num_groups=3, validation_fraction=fraction)
        assert len(set(fold.split.validation["speaker"])) == expected


def test_named_speakers_are_held_out(corpus):
    split = split_by_speaker(load_table(corpus), test_speakers=["01"], validation_speakers=["04", "00"])
    assert [sorted(set(part["speaker"])) for part in split] == [["02", "03", "05"], ["00", "04"], ["01"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_speakers": ["7"]}, "no speaker 7; it has 00, 01"),
        ({"test_speakers": ["01"], "validation_speakers": ["01"]}, "Speaker 01 cannot both"),
        ({"test_fraction": 1.0}, "No speaker is left"),
        ({"test_fraction": 0.0}, "No speaker is held out"),
        ({"validation_fraction": 1.0}, "expected a share from 0 to below 1"),
        ({"validation_fraction": 0.9}, "Fold test cannot hold 4 of 4 training speakers"),
    ],
)
def test_impossible_splits_are_named(corpus, arguments, message):
    with pytest.raises(ProtocolError, match=message):
        split_by_speaker(load_table(corpus), **arguments)


def test_a_label_that_nobody_trains_is_an_error_unless_allowed(small_checkpoint, tmp_path):
    folder = write_corpus(tmp_path / "corpus", speakers=3)
    rows = [row for row in rows_of(folder) if row["speaker"] == "00" or row["emotion"] == "calm"]
    write_table(folder, rows)
    command = ["--data_dir", str(folder), "--encoder", str(small_checkpoint), "--test_speakers", "00"]
    command += ["--output_dir", str(tmp_path / "run"), "--feature_dir", str(tmp_path / "features")]
    with pytest.raises(LeakError, match="fold test: train lacks the label excited"):
        run_train.main(command)
    run_train.main([*command, "--allow_leaks", "labels", "--num_train_epochs", "1", "--class_weighting", "balanced"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["audit"]["leaks"][0]["found"] == ["excited"]
    assert "Leak allowed: labels (train)" in metrics["warnings"][0]


def test_what_libsndfile_cannot_read_is_read_with_torchcodec_where_it_is(tmp_path, monkeypatch):
    path = tmp_path / "clip.m4a"
    path.write_bytes(b"no libsndfile knows this")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(AudioFileError, match="clip.m4a cannot be read as audio"):
        read_audio(path)
    stereo = np.stack([speechlike(0.5), np.zeros(RATE // 2, np.float32)])

    class AudioDecoder:
        def __init__(self, source):
            assert source == path

        def get_all_samples(self):
            return SimpleNamespace(data=torch.from_numpy(stereo), sample_rate=RATE)

    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", SimpleNamespace(AudioDecoder=AudioDecoder))
    np.testing.assert_allclose(read_audio(path), stereo[0] / 2)
    assert channel_count(path, "clip") == 2
    np.testing.assert_allclose(np.concatenate([*decode(path, "clip", RATE, channel=1)]), stereo[0])


@pytest.mark.skipif(not reads_video(), reason="torchcodec or FFmpeg is not there")
def test_torchcodec_itself_gives_the_sound_of_a_video(tmp_path):
    soundfile.write(tmp_path / "clip.wav", speechlike(1.0), RATE)
    command = ["ffmpeg", "-f", "lavfi", "-i", "color=s=64x64:d=1", "-i", "clip.wav", "-shortest", "clip.mp4"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    video, sound = read_audio(tmp_path / "clip.mp4"), speechlike(1.0)
    length = min(len(video), len(sound))
    assert length > 0.9 * RATE and np.corrcoef(video[:length], sound[:length])[0, 1] > 0.9


def test_a_writer_that_was_killed_is_cleaned_up_after_and_one_at_work_is_not(tmp_path):
    old, young, other = (tmp_path / name for name in (".a.12345678", ".a.abcdefgh", ".b.12345678"))
    for folder in (old, young, other):
        folder.mkdir()
    os.utime(old, (0, 0))
    with replacing(tmp_path / "a") as path:
        path.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([young, other, tmp_path / "a"])
