"""`whisper-ser describe` says of a corpus what counting by hand says, whatever form the corpus has."""

import csv
import json
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, speechlike, write_corpus, write_table
from matplotlib.image import imread
from test_emobox import IEMOCAP_MAP, iemocap_folds, write_manifest
from transformers import TrainingArguments

from whisper_ser.audio.decoding import read_audio
from whisper_ser.cli import main
from whisper_ser.commands import describe as command
from whisper_ser.data.corpora.table import load_table
from whisper_ser.data.splits import split_by_speaker
from whisper_ser.errors import AudioFileError
from whisper_ser.report.figures import draw_durations
from whisper_ser.training.settings import DataArguments

SECONDS = {"a1": 1.0, "a2": 2.0, "b1": 1.5, "b2": 2.5, "b3": 4.0, "c1": 1.25, "c2": 1.75}


@pytest.fixture
def small(tmp_path) -> Path:
    """Seven utterances of three speakers, with lengths that can be added up by hand: 14 s."""
    folder = tmp_path / "small"
    folder.mkdir()
    for n, (name, seconds) in enumerate(SECONDS.items()):
        soundfile.write(folder / f"{name}.wav", speechlike(seconds, 90 + 31 * n, seed=n), RATE)
    emotions = {name: "sad" if name in ("a1", "b1", "b2", "c2") else "angry" for name in SECONDS}
    rows = [{"file_name": f"{name}.wav", "emotion": emotions[name], "speaker": name[0]} for name in SECONDS]
    write_table(folder, rows)
    return folder


def described(*argv: str | Path, output: Path, capsys) -> dict:
    """Returns what `describe --format json` prints, which is all it prints and what it writes."""
    assert main(["describe", *map(str, argv), "--output_dir", str(output), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((output / "description.json").read_text(encoding="utf-8")) == printed
    assert imread(output / "duration_histogram.png").std() > 0
    return printed


def refused(*argv: str | Path, capsys) -> str:
    assert main(["describe", *map(str, argv)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_counts_durations_and_speakers_are_those_counted_by_hand(small, tmp_path, capsys):
    found = described("own", small, output=tmp_path / "out", capsys=capsys)
    assert (found["name"], found["utterances"], found["hours"]) == ("small", 7, round(14 / 3600, 4))
    assert found["seconds"] == {"mean": 2.0, "median": 1.75, "min": 1.0, "max": 4.0}
    assert found["speakers"] == {
        "count": 3,
        "genders": {"unknown": 3},
        "utterances_each": {"min": 2, "median": 2, "max": 3},
        "utterances_without": 0,
    }
    assert found["labels"] == {"angry": 3, "sad": 4}
    assert found["protocol"] == {"asked": "auto", "name": "loso", "problem": None}
    tests = {fold["name"]: fold["parts"]["test"] for fold in found["folds"]}
    assert tests == {
        "a": {"utterances": 2, "speakers": 1, "labels": {"angry": 1, "sad": 1}},
        "b": {"utterances": 3, "speakers": 1, "labels": {"angry": 1, "sad": 2}},
        "c": {"utterances": 2, "speakers": 1, "labels": {"angry": 1, "sad": 1}},
    }
    assert found["folds"][1]["parts"]["train"] == {
        "utterances": 4,
        "speakers": 2,
        "labels": {"angry": 2, "sad": 2},
    }
    assert found["audit"]["findings"] == [] and found["unusable"] == {}
    assert (found["license"], found["homepage"], found["citation"]) == (None, None, None)


def test_the_terminal_shows_the_table_and_where_the_files_are(small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["describe", "own", "small"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "seconds     mean 2.00, median 1.75, min 1.00, max 4.00" in lines
    assert "speakers    3, 2 / 2 / 3 utterances each (min / median / max)" in lines
    assert "protocol    loso (chosen by auto)" in lines
    header = lines.index("tests in fold  utterances  speakers  angry  sad")
    assert [line.split() for line in lines[header + 1 : header + 5]] == [
        ["a", "2", "1", "1", "1"],
        ["b", "3", "1", "1", "2"],
        ["c", "2", "1", "1", "1"],
        ["total", "7", "3", "3", "4"],
    ]
    assert lines[-1] == "outputs/describe/small/ holds description.json and duration_histogram.png"
    assert sorted(path.name for path in (tmp_path / "outputs/describe/small").iterdir()) == [
        "description.json",
        "duration_histogram.png",
    ]


def test_one_split_shows_its_parts(small, tmp_path, capsys):
    flags = ["--protocol", "split", "--test_speakers", "b", "--output_dir", str(tmp_path / "out")]
    assert main(["describe", "own", str(small), *flags]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["part", "utterances", "speakers", "angry", "sad"] in rows
    assert ["train", "4", "2", "2", "2"] in rows and ["test", "3", "1", "1", "2"] in rows
    assert not any(row[:1] == ["validation"] for row in rows)


def test_a_published_corpus_shows_its_folds_genders_licence_and_source(tmp_path, capsys):
    names = [
        f"Actor_{actor}/03-01-{emotion:02d}-01-01-01-{actor}.wav" for actor in ("01", "04") for emotion in range(1, 9)
    ]
    for n, name in enumerate(names):
        path = tmp_path / "ravdess" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, speechlike(1 + 0.1 * n, 90 + 23 * n, seed=n), RATE)
    found = described("ravdess", tmp_path / "ravdess", "--allow_incomplete", output=tmp_path / "out", capsys=capsys)
    assert found["name"] == "ravdess" and found["license"] == "CC BY-NC-SA 4.0"
    assert "livingstone2018ravdess" in found["citation"] and found["homepage"].startswith("https://zenodo.org")
    assert found["speakers"]["genders"] == {"female": 1, "male": 1}
    assert found["languages"] == {"en": 16}
    assert found["protocol"]["name"] == "fold"
    # Actor 01 tests in EmoBox's fold 1, actor 04 in fold 2.
    assert [(fold["name"], fold["parts"]["test"]["utterances"]) for fold in found["folds"]] == [("1", 8), ("2", 8)]
    main(["describe", "ravdess", str(tmp_path / "ravdess"), "--allow_incomplete", "--output_dir", str(tmp_path)])
    text = capsys.readouterr().out
    assert "licence     CC BY-NC-SA 4.0" in text and "speakers    2 (1 female, 1 male)" in text
    assert "  @article{livingstone2018ravdess," in text


def test_an_emobox_manifest_shows_its_folds(tmp_path, capsys):
    entries = iemocap_folds()
    manifest = write_manifest(tmp_path / "EmoBox", "iemocap", entries, IEMOCAP_MAP, audio=False)
    for n, entry in enumerate(entry for fold in entries for entry in fold):
        path = tmp_path / "EmoBox" / entry["wav"]
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, speechlike(1, 90 + 23 * n, seed=n), RATE)
    found = described("emobox", "--manifest", manifest, output=tmp_path / "out", capsys=capsys)
    assert found["protocol"]["name"] == "fold" and len(found["folds"]) == 5
    assert found["labels"] == {"Happy": 5, "Neutral": 5}
    assert "manifest" in refused("emobox", capsys=capsys)


def test_parts_that_share_speakers_and_recordings_are_shown_and_no_error(small, tmp_path, capsys):
    (small / "c1.wav").write_bytes((small / "a2.wav").read_bytes())
    rows = [
        {"file_name": f"{name}.wav", "emotion": emotion, "speaker": speaker, "fold": fold}
        for name, emotion, speaker, fold in (
            ("a1", "sad", "a", "1"),
            ("a2", "angry", "a", "1"),
            ("b1", "sad", "b", "1"),
            ("b3", "angry", "b", "2"),
            ("c1", "angry", "c", "2"),
            ("c2", "sad", "c", "2"),
        )
    ]
    write_table(small, rows)
    found = described("own", small, output=tmp_path / "out", capsys=capsys)
    assert found["protocol"]["name"] == "fold"
    leaks = {(leak["kind"], leak["fold"]): leak["found"] for leak in found["audit"]["leaks"]}
    copy = [f"{small / 'a2.wav'} as {small / 'c1.wav'} (identical bytes)"]
    assert leaks == {
        ("speakers", "1"): ["b"],
        ("speakers", "2"): ["b"],
        ("audio", "1"): copy,
        ("audio", "2"): copy,
    }
    assert found["audit"]["findings"][0] == (
        "speakers (train/test) in 2 of 2 folds, fold 1: train and test share speakers b"
    )
    main(["describe", "own", str(small), "--output_dir", str(tmp_path)])
    assert "  audio (train/test) in 2 of 2 folds" in capsys.readouterr().out


def test_a_corpus_that_cannot_be_cut_is_described_without_folds(small, tmp_path, capsys):
    write_table(
        small,
        [{"file_name": "a1.wav", "emotion": "x", "speaker": "a"}]
        + [{"file_name": "a2.wav", "emotion": "y", "speaker": "a"}],
    )
    found = described("own", small, output=tmp_path / "out", capsys=capsys)
    assert found["utterances"] == 2 and found["folds"] == [] and found["audit"] is None
    assert "at least two speakers" in found["protocol"]["problem"]
    main(["describe", "own", str(small), "--output_dir", str(tmp_path / "out")])
    assert "no folds by the protocol loso: loso needs at least two speakers" in capsys.readouterr().out
    assert "at least two speakers" in refused("own", small, "--protocol", "loso", capsys=capsys)


def test_without_speakers_folds_are_stratified_and_said_to_be_unaudited(tmp_path, capsys):
    folder = write_corpus(tmp_path / "tones", speakers=3)
    rows = [{"file_name": path.name, "emotion": path.name.split("_")[1]} for path in sorted(folder.glob("*.wav"))]
    write_table(folder, rows)
    assert main(["describe", "own", str(folder), "--num_groups", "3", "--output_dir", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "speakers    unknown" in text and "protocol    stratified (chosen by auto)" in text
    assert "18 of 18 utterances have no speaker: parts may share speakers unseen." in text


def test_files_that_training_would_refuse_are_listed_and_the_others_described(small, tmp_path, capsys):
    (small / "a1.wav").write_text("not audio")
    soundfile.write(small / "b1.wav", np.zeros(100), RATE)
    soundfile.write(small / "c2.wav", np.zeros(RATE), RATE)  # silent: headers do not tell
    found = described("own", small, output=tmp_path / "out", capsys=capsys)
    assert found["utterances"] == 7 and found["audit"]["utterances"] == 4
    assert found["seconds"] == {"mean": 2.438, "median": 2.25, "min": 1.25, "max": 4.0}  # of 1.25, 2, 2.5 and 4
    reasons = {Path(path).name: reason for path, reason in found["unusable"].items()}
    assert reasons.pop("a1.wav").startswith("cannot be read as audio")
    assert reasons == {"b1.wav": "is too short: 6.25 ms, at least 25 ms are needed", "c2.wav": "is silent"}
    main(["describe", "own", str(small), "--output_dir", str(tmp_path / "out")])
    assert f"3 files cannot be used: training refuses them, the durations lack them.\n  {small}" in (
        capsys.readouterr().out
    )


def test_a_corpus_without_any_usable_file_is_an_error(small, capsys, tmp_path):
    for path in small.glob("*.wav"):
        path.write_text("not audio")
    message = refused("own", small, "--output_dir", tmp_path / "out", capsys=capsys)
    assert "7 of 7 audio files cannot be used" in message and "c2.wav" in message
    assert not (tmp_path / "out").exists()


def test_a_table_may_be_named_instead_of_a_folder(small, tmp_path, capsys):
    direct = described("own", small, output=tmp_path / "1", capsys=capsys)
    by_table = described("own", small / "metadata.csv", output=tmp_path / "2", capsys=capsys)
    table = (small / "metadata.csv").rename(tmp_path / "mine.csv")
    elsewhere = described("own", small, "--table", table, output=tmp_path / "3", capsys=capsys)
    for found in (by_table, elsewhere):
        assert {**found, "name": "small"} == direct


def test_the_folds_shown_are_those_that_training_takes_by_default(tmp_path, capsys):
    folder = write_corpus(tmp_path / "tones", speakers=6, each=3)
    with open(folder / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # Each speaker keeps as many calm and excited utterances as no other, so that counts tell who was drawn.
    kept = {
        (f"{n:02d}", emotion): count for n in range(6) for emotion, count in (("calm", n % 3), ("excited", n // 3))
    }
    rows = [row for row in rows if int(row["file_name"][-5]) <= kept[row["speaker"], row["emotion"]]]
    write_table(folder, rows)
    found = described("own", folder, "--protocol", "split", output=tmp_path / "out", capsys=capsys)
    drawn = split_by_speaker(load_table(folder), seed=TrainingArguments.seed).test
    expected = Counter(load_table(folder).features["emotion"].int2str(drawn["emotion"]))
    assert found["folds"][0]["parts"]["test"]["labels"] == expected


def test_every_setting_of_the_data_is_a_flag(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    flags = {*re.findall(r"--\w+", capsys.readouterr().out)}
    expected = {f"--{field.name}" for field in fields(DataArguments)} - {
        "--corpus",
        "--data_dir",
        "--allow_leaks",
        "--feature_dir",
        "--license",
    }
    assert expected <= flags and "--license" not in flags


def test_what_is_missing_is_said(small, tmp_path, capsys):
    assert "Name the folder of the corpus: whisper-ser describe ravdess FOLDER" in refused("ravdess", capsys=capsys)
    assert "There is no folder" in refused("savee", tmp_path / "absent", capsys=capsys)
    assert "There is no /absent/folder" in refused("own", "/absent/folder", capsys=capsys)
    assert "has no column feeling; it has file_name, emotion, speaker" in refused(
        "own", small, "--label_column", "feeling", capsys=capsys
    )
    assert "decides who tests" in refused("own", small, "--test_speakers", "a", capsys=capsys)
    with pytest.raises(SystemExit):
        main(["describe", "berlin", str(small)])
    assert "invalid choice: 'berlin'" in capsys.readouterr().err


def test_a_stream_without_a_length_is_no_usable_file(tmp_path):
    path = tmp_path / "stream.flac"
    soundfile.write(path, speechlike(1), RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO's 36 bits of total samples, 0 where an encoder wrote to a pipe
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match="cannot be read as audio"):
        read_audio(path)


def test_a_single_very_long_file_does_not_squeeze_the_histogram(tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_xlabel", lambda axes, label: labels.append((label, axes.get_xlim())))
    draw_durations([2.0] * 999 + [600.0], "title", tmp_path / "x.png")
    draw_durations([1.0, 2.0], "title", tmp_path / "y.png")
    (long_label, long_limits), (label, limits) = labels
    assert long_label == "seconds (1 longer, up to 600 s, not shown)" and long_limits == (0, 4)
    assert label == "seconds" and limits == (0, 2)


@pytest.mark.real
def test_a_real_corpus_has_the_hours_and_speakers_of_its_own_table(shared, tmp_path, capsys):
    folder = shared / "data" / "emodb4"
    found = described("emodb", folder, "--classes", "4", output=tmp_path / "out", capsys=capsys)
    with open(folder / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert found["hours"] == pytest.approx(sum(float(row["seconds"]) for row in rows) / 3600, abs=1e-3)
    assert found["labels"] == Counter(row["emotion"] for row in rows)
    assert found["speakers"]["genders"] == {"female": 5, "male": 5}
    tested = {fold["name"]: fold["parts"]["test"]["utterances"] for fold in found["folds"]}
    assert tested == Counter(row["speaker"] for row in rows)
    assert found["audit"]["leaks"] == [] and found["unusable"] == {}
