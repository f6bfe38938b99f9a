"""One's own data: tables, folders and datasets become one form, and what is wrong is named, all of it at once."""

import io
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from conftest import RATE, speechlike
from datasets import Audio, ClassLabel, Features, Value

from whisper_ser.data.corpora.table import load_table
from whisper_ser.errors import CorpusError

ROWS = [("a.wav", "ang", "01"), ("b.wav", "neu", "02"), ("c.wav", "exc", "01"), ("d.wav", "hap", "02")]
ALIASES = {"ang": "angry", "neu": "neutral", "exc": "happy", "hap": "happy"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    for n, (name, _, _) in enumerate(ROWS):
        soundfile.write(tmp_path / "audio" / name, speechlike(0.5, seed=n), RATE)
    return tmp_path


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def described(dataset) -> list[tuple[str, str, str]]:
    names = dataset.features["emotion"].names
    return [
        (Path(path).name, names[emotion], speaker)
        for path, emotion, speaker in zip(dataset["path"], dataset["emotion"], dataset["speaker"], strict=True)
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_table_with_odd_names_is_read_by_flags(folder, delimiter, start):
    header = start + delimiter.join(["Datei", "Gefühl", "Wer", "rest"])
    rows = [delimiter.join([*row, '"x,;y"']) for row in ROWS]
    table = write(folder / "odd.csv", header, rows)
    dataset = load_table(
        table,
        audio_dir=folder / "audio",
        path_column="Datei",
        label_column="Gefühl",
        speaker_column="Wer",
        label_aliases=ALIASES,
        labels=["neutral", "happy", "angry"],
    )
    assert dataset.features["emotion"].names == ["neutral", "happy", "angry"]
    assert described(dataset) == [(name, ALIASES[label], speaker) for name, label, speaker in ROWS]
    assert all(Path(path).is_file() for path in dataset["path"])


@pytest.mark.parametrize("path_name", ["file_name", "path", "file", "filename", "audio", "wav", "Path"])
@pytest.mark.parametrize(("label_name", "speaker_name"), [("emotion", "speaker"), ("label", "speaker_id")])
def test_common_names_need_no_flags(folder, path_name, label_name, speaker_name):
    rows = [f"audio/{name},{label},{speaker},{n}" for n, (name, label, speaker) in enumerate(ROWS)]
    table = write(folder / "t.csv", f"{path_name},{label_name},{speaker_name},fold", rows)
    dataset = load_table(table)
    assert described(dataset) == ROWS
    assert dataset["fold"] == ["0", "1", "2", "3"]


def test_absolute_paths_are_allowed_in_a_table(folder):
    table = write(folder / "t.csv", "path,emotion", [f"{folder / 'audio' / name},{label}" for name, label, _ in ROWS])
    assert described(load_table(table)) == [(name, label, "") for name, label, _ in ROWS]


def test_numbers_become_text(folder):
    rows = [{"path": f"audio/{name}", "label": n % 2, "speaker": n + 1} for n, (name, _, _) in enumerate(ROWS)]
    lines = folder / "t.jsonl"
    lines.write_text("\n\n".join(map(json.dumps, rows)))
    parquet = folder / "t.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(rows), parquet)
    # As pandas writes a column of integers in which a cell had been empty.
    floats = folder / "f.parquet"
    pa.parquet.write_table(pa.Table.from_pylist([{**row, "speaker": float(row["speaker"])} for row in rows]), floats)
    for table in (lines, parquet, floats):
        assert described(load_table(table)) == [(name, str(n % 2), str(n + 1)) for n, (name, _, _) in enumerate(ROWS)]


def test_a_split_column_is_kept_as_group(folder):
    rows = [f"audio/{name},{label},{'test' if n else 'train'}" for n, (name, label, _) in enumerate(ROWS)]
    table = write(folder / "t.csv", "path,emotion,part", rows)
    assert load_table(table, split_column="part")["group"] == ["train", "test", "test", "test"]
    assert load_table(table)["group"] == [""] * 4


@pytest.mark.parametrize(
    ("header", "arguments", "message"),
    [
        ("path,audio,emotion", {}, "path and audio: name the one with the path by path_column"),
        ("path,emotion,label", {}, "emotion and label: name the one with the label by label_column"),
        ("path,emotion,mood", {"label_column": "moood"}, "no column moood; it has path, emotion, mood"),
        ("x,emotion,y", {}, "no column named file_name or path .*; it has x, emotion, y. Name it by path_column"),
        ("path,x,y", {}, "no column named emotion or label"),
    ],
)
def test_columns_that_are_unknown_or_ambiguous_are_named(folder, header, arguments, message):
    table = write(folder / "t.csv", header, ["audio/a.wav,ang,ang", "audio/b.wav,neu,neu"])
    with pytest.raises(CorpusError, match=message):
        load_table(table, **arguments)


def test_all_bad_rows_are_named_together(folder):
    rows = [
        "audio/a.wav,ang,01",
        "",
        "audio/absent.wav,neu,01",
        "../outside.wav,neu,01",
        "audio/b.wav,neutrl,01",
        "audio/b.wav,neu,",
        ",neu,02",
        "audio/d.wav,,02",
        "audio/c.wav,neu,02",
        "audio/./c.wav,neu,02",
    ]
    table = write(folder / "t.csv", "path,emotion,speaker", rows)
    with pytest.raises(CorpusError) as error:
        load_table(table, labels=["ang", "neu"])
    for part in (
        "8 rows",
        f"line 4: there is no file {folder / 'audio' / 'absent.wav'}",
        "line 5: ../outside.wav lies outside",
        "line 6: unknown emotion 'neutrl'; expected ang, neu",
        "line 7: speaker is empty",
        "line 8: the path is empty",
        "line 9: emotion is empty",
        "c.wav is listed 2 times",
        "b.wav is listed 2 times",
    ):
        assert part in str(error.value)


def test_labels_outside_a_chosen_subset_are_dropped_and_counted(folder, caplog):
    rows = [f"audio/{name},{label}" for name, label, _ in ROWS] + ["audio/gone.wav,xxx"]
    table = write(folder / "t.csv", "path,emotion", rows)
    with pytest.raises(CorpusError, match="line 4: unknown emotion 'exc'; expected neu, ang"):
        load_table(table, labels=["neu", "ang"])
    with caplog.at_level(logging.WARNING):
        dataset = load_table(table, labels=["neu", "ang"], drop_other_labels=True, label_aliases={"exc": "hap"})
    assert [label for _, label, _ in described(dataset)] == ["ang", "neu"]
    assert "3 utterances" in caplog.text and "hap 2, xxx 1" in caplog.text
    kept = load_table(table, labels=["neu", "ang"], drop_other_labels=True, label_aliases={"exc": "ang"})
    assert [label for _, label, _ in described(kept)] == ["ang", "neu", "ang"]
    with pytest.raises(CorpusError, match="name them in labels"):
        load_table(table, drop_other_labels=True)


def test_an_alias_for_no_label_is_logged(folder, caplog):
    table = write(folder / "t.csv", "path,emotion", [f"audio/{name},{label}" for name, label, _ in ROWS])
    load_table(table, label_aliases={"agn": "angry", "exc": "happy"})
    assert "agn" in caplog.text and "exc" not in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"path,emotion\n", "no rows"),
        ("t.csv", b"", "it has nothing"),
        ("t.csv", b"\xff\xfe\x00", "not a CSV table in UTF-8"),
        ("t.jsonl", b"{\n", "not a JSONL table"),
        ("t.jsonl", b"[1]\n", "line 1 is not an object"),
        ("t.parquet", b"no", "not a Parquet table"),
        ("t.txt", b"no", "is not a table; expected one of .csv"),
        ("t.csv", b"path,emotion\naudio/a.wav,x\naudio/b.wav,x\n", "only one emotion, x"),
    ],
)
def test_tables_that_cannot_be_read_are_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load_table(folder / name)


def test_a_label_that_no_row_has_is_named(folder):
    table = write(folder / "t.csv", "path,emotion", ["audio/a.wav,x", "audio/b.wav,y"])
    with pytest.raises(CorpusError, match="no row with the label z; it has x, y"):
        load_table(table, labels=["x", "y", "z"])


@pytest.mark.parametrize("source", ["absent.csv", "some/where/absent", "/absent", "no such thing"])
def test_a_source_that_is_not_there_is_named(source):
    with pytest.raises(CorpusError, match=f"There is no {source}"):
        load_table(source)


def test_an_unknown_dataset_is_named():
    with pytest.raises(CorpusError, match="nobody/nothing is neither a table, nor .* nor a readable dataset"):
        load_table("nobody/nothing")


@pytest.mark.parametrize("parts", [[""], ["train", "test"]])
def test_folders_named_after_labels(tmp_path, parts):
    for part in parts:
        for label in ("angry", "sad"):
            target = tmp_path / part / label / "deeper"
            target.mkdir(parents=True)
            soundfile.write(target / "x.flac", speechlike(0.5), RATE)
            (target / "notes.txt").write_text("no audio")
    dataset = load_table(tmp_path)
    names = dataset.features["emotion"].names
    rows = sorted(zip(dataset["group"], [names[e] for e in dataset["emotion"]], dataset["speaker"], strict=True))
    assert rows == sorted((part, label, "") for part in parts for label in ("angry", "sad"))
    with pytest.raises(CorpusError, match="speaker_column and audio_dir has no meaning"):
        load_table(tmp_path, speaker_column="x", audio_dir=tmp_path)
    soundfile.write(tmp_path / "loose.wav", speechlike(0.5), RATE)
    with pytest.raises(CorpusError, match="loose.wav"):
        load_table(tmp_path)


def test_a_folder_of_audio_with_a_table(folder):
    write(folder / "audio" / "metadata.csv", "file_name,label", [f"{name},{label}" for name, label, _ in ROWS])
    assert described(load_table(folder / "audio")) == [(name, label, "") for name, label, _ in ROWS]
    (folder / "audio" / "metadata.jsonl").write_text("")
    with pytest.raises(CorpusError, match="metadata.csv and metadata.jsonl"):
        load_table(folder / "audio")


def encoded(kind: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, speechlike(0.5, seed=seed), RATE, format=kind)
    return buffer.getvalue()


def write_dataset(folder: Path, splits: list[str]) -> None:
    """Writes a dataset as the Hub has it: Parquet files with the audio inside and the features in their metadata."""
    (folder / "data").mkdir(parents=True)
    features = Features({"audio": Audio(), "emotion": ClassLabel(names=["sad", "angry"]), "speaker": Value("int32")})
    for seed, split in enumerate(splits):
        audio = [
            {"bytes": encoded("FLAC", seed), "path": "x.FLAC"},
            {"bytes": encoded("MP3", seed), "path": None},
        ]
        table = pa.table({"audio": audio, "emotion": [1, 0], "speaker": [1, 2]}).cast(features.arrow_schema)
        pa.parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


def test_a_dataset_with_audio_inside(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("datasets must not decode audio")

    monkeypatch.setattr(Audio, "decode_example", refuse)
    write_dataset(tmp_path / "set", ["train", "test"])
    dataset = load_table(tmp_path / "set", cache_dir=tmp_path / "cache")
    assert [row[1:] for row in described(dataset)] == [("angry", "1"), ("sad", "2")] * 2
    assert dataset["group"] == ["train", "train", "test", "test"]
    assert dataset["path"][0].endswith(".flac")
    assert [Path(path).read_bytes() for path in dataset["path"]] == [
        encoded(kind, seed) for seed in (0, 1) for kind in ("FLAC", "MP3")
    ]
    assert len(soundfile.read(dataset["path"][1])[0]) > 0.4 * RATE
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(written) == 4
    assert load_table(tmp_path / "set", cache_dir=tmp_path / "cache")["path"] == dataset["path"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == written


def test_a_dataset_of_one_split_has_no_group_and_one_file_may_be_read_alone(tmp_path):
    write_dataset(tmp_path / "set", ["train"])
    for source in (tmp_path / "set", *(tmp_path / "set" / "data").iterdir()):
        dataset = load_table(source, cache_dir=tmp_path / "cache")
        assert dataset["group"] == ["", ""] and dataset.features["emotion"].names == ["angry", "sad"]


def test_a_column_of_a_dataset_may_say_the_split(tmp_path):
    write_dataset(tmp_path / "set", ["train", "test"])
    dataset = load_table(tmp_path / "set", cache_dir=tmp_path / "cache", split_column="speaker")
    assert dataset["group"] == ["1", "2", "1", "2"]


def test_gender_and_language_are_kept_where_a_table_has_them(folder):
    rows = ["a.wav,angry,01,F,de", "b.wav,neutral,02,male,de", "c.wav,angry,01,,"]
    dataset = load_table(write(folder / "audio" / "facts.csv", "path,emotion,speaker,Gender,language", rows))
    assert dataset["gender"][:] == ["female", "male", ""] and dataset["language"][:] == ["de", "de", ""]
