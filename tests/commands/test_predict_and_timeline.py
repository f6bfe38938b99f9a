"""`whisper-ser predict` and `whisper-ser timeline`: the library's answers as text, files and pictures."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pandas
import pytest
import soundfile
from conftest import RATE, ROOT, speechlike
from matplotlib.colors import to_rgb
from matplotlib.image import imread

import whisper_ser
from whisper_ser.cli import main
from whisper_ser.inference.attention import Explanation, explain
from whisper_ser.inference.outputs import Span, Timeline
from whisper_ser.inference.plots import PALETTE, SILENCE_COLOUR, draw_attention, draw_timeline

LABELS = ["angry", "happy", "sad"]


@pytest.fixture
def folder(tmp_path):
    """A folder of three recordings, one below it, and files that are none."""
    folder = tmp_path / "recordings"
    (folder / "below").mkdir(parents=True)
    for n, name in enumerate(("b.wav", "=1+1.flac", "below/a.ogg")):
        soundfile.write(folder / name, speechlike(1.0 + n, 90 + 60 * n), RATE)
    (folder / "notes.txt").write_text("no audio")
    (folder / "._b.wav").write_bytes(b"what a Mac leaves")
    return folder


def files_of(folder) -> list[str]:
    return [str(folder / name) for name in ("=1+1.flac", "b.wav", "below/a.ogg")]


@pytest.fixture
def run(small_model, capsys):
    """Runs a command on the small model; returns its exit status, what it printed, and its complaints."""

    def run(*argv) -> tuple[int, str, str]:
        status = main([*map(str, argv), "--model", str(small_model), "--device", "cpu"])
        return status, *capsys.readouterr()

    return run


def test_a_folder_is_answered_in_order_and_as_the_library_does(run, folder, small_model):
    status, printed, _ = run("predict", folder, "--format", "jsonl")
    rows = [json.loads(line) for line in printed.splitlines()]
    expected = whisper_ser.predict(files_of(folder), small_model)
    assert status == 0
    assert [row["file"] for row in rows] == files_of(folder)
    assert [row["probabilities"] for row in rows] == [pytest.approx(one.probabilities, abs=1e-6) for one in expected]
    assert run("predict", folder, "--format", "json")[1] == json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def test_int8_is_asked_for_by_precision(run, folder, small_model):
    _, printed, _ = run("predict", folder, "--format", "jsonl", "--precision", "int8")
    integers = whisper_ser.load_model(small_model, "cpu", "int8")
    for row, expected in zip(printed.splitlines(), whisper_ser.predict(files_of(folder), integers), strict=True):
        assert json.loads(row)["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    windows = []
    for precision in ("float32", "int8"):
        _, printed, _ = run("timeline", folder / "b.wav", "--format", "jsonl", "--precision", precision)
        windows.append([json.loads(line)["probability_angry"] for line in printed.splitlines()])
    assert windows[1] == pytest.approx(windows[0], abs=0.05) and windows[1] != pytest.approx(windows[0], abs=1e-4)


def test_the_table_has_a_line_for_each(run, folder):
    _, printed, _ = run("predict", folder / "*.wav", folder / "below", "--top_k", "1", "--abstain_below", "1")
    header, *lines = printed.splitlines()
    assert header.split() == ["file", "channel", "seconds", "label", "probabilities"]
    assert [line.split()[:4] for line in lines] == [
        [str(folder / "b.wav"), "mix", "1.00", "uncertain"],
        [str(folder / "below/a.ogg"), "mix", "3.00", "uncertain"],
    ]
    assert all(len(line.split()) == 6 for line in lines)


def test_bad_files_are_told_at_the_end_and_the_others_done(run, folder):
    (folder / "bad.wav").write_text("no audio")
    status, printed, complaints = run("predict", "absent.wav", folder, folder / "*.mp3", "--format", "jsonl")
    assert status == 1
    assert [json.loads(line)["file"] for line in printed.splitlines()] == files_of(folder)
    assert "3 could not be used" in complaints
    for words in ("absent.wav does not exist", "bad.wav cannot be read", "No file matches"):
        assert words in complaints


def test_csv_runs_no_formula_and_leaves_labels_beyond_top_k_empty(run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    _, printed, _ = run("predict", "=1+1.flac", "b.wav", "--format", "csv", "--top_k", "2")
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["file"] for row in rows] == ["'=1+1.flac", "b.wav"]
    for row in rows:
        probabilities = [row[f"probability_{label}"] for label in LABELS]
        assert probabilities.count("") == 1
        assert max(float(value) for value in probabilities if value) == float(row["score"])


def test_parquet_has_types_and_goes_to_a_file_that_is_whole_or_not_there(run, folder, tmp_path):
    output = tmp_path / "new" / "answers.parquet"
    assert run("predict", folder, "--channels", "separate", "--format", "parquet", "--output", output)[:2] == (0, "")
    table = pandas.read_parquet(output)
    assert list(table["file"]) == files_of(folder)
    assert list(table["channel"]) == [1, 1, 1]
    assert table[[f"probability_{label}" for label in LABELS]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert os.listdir(output.parent) == ["answers.parquet"]
    assert "--output" in run("predict", folder, "--format", "parquet")[2]


def test_an_output_file_stays_as_it_was_when_predicting_breaks_off(run, folder, tmp_path, monkeypatch):
    output = tmp_path / "answers.csv"
    output.write_text("old")

    def broken(*_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr("whisper_ser.inference.predict._classify", broken)
    assert run("predict", folder, "--format", "csv", "--output", output)[0] == 1
    assert output.read_text() == "old"


def test_names_that_no_terminal_can_show_are_shown_all_the_same(run, tmp_path):
    name = os.fsdecode(bytes(tmp_path / "a") + b"\xff\x1b.wav")
    soundfile.write(os.fsencode(name), speechlike(0.5), RATE, format="WAV")
    status, printed, _ = run("predict", name)
    assert status == 0
    assert "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}.wav" in printed


@pytest.fixture
def pipe(monkeypatch, tmp_path):
    """Puts data where a command reads what is piped into it."""
    with contextlib.ExitStack() as opened:

        def pipe(data: bytes) -> None:
            (tmp_path / "piped").write_bytes(data)
            monkeypatch.setattr(sys, "stdin", opened.enter_context(open(tmp_path / "piped")))

        yield pipe


def test_an_audio_file_comes_through_a_pipe(run, folder, pipe):
    pipe((folder / "b.wav").read_bytes())
    of_pipe = json.loads(run("predict", "-", "--format", "jsonl")[1])
    of_file = json.loads(run("predict", folder / "b.wav", "--format", "jsonl")[1])
    assert of_pipe == {**of_file, "file": "-"}


@pytest.fixture
def talk(tmp_path):
    """Speech from 1 to 3 s and from 4 to 6 s of 7 s, 16 bit."""
    audio = np.zeros(7 * RATE, np.float32)
    audio[RATE : 3 * RATE] = speechlike(2.0, 90)
    audio[4 * RATE : 6 * RATE] = speechlike(2.0, 250)
    soundfile.write(tmp_path / "talk.wav", audio, RATE, subtype="PCM_16")
    return tmp_path / "talk.wav"


def test_a_timeline_in_every_format(run, talk, small_model):
    expected = whisper_ser.timeline(talk, small_model, hop=1.0)
    (found,) = json.loads(run("timeline", talk, "--hop", "1", "--format", "json")[1])
    assert (found["file"], found["seconds"], found["labels"]) == (str(talk), 7.0, LABELS)
    assert found["whole"] == pytest.approx(expected.whole, abs=1e-6)
    for name in ("windows", "segments"):
        spans = getattr(expected, name)
        assert [(row["start"], row["end"], row["label"]) for row in found[name]] == [
            (pytest.approx(span.start, abs=1e-3), pytest.approx(span.end, abs=1e-3), span.label) for span in spans
        ]
    rows = list(csv.DictReader(io.StringIO(run("timeline", talk, "--hop", "1", "--format", "csv")[1])))
    assert [row["kind"] for row in rows] == ["segment"] * 5 + ["window"] * 5
    assert [row["label"] for row in rows[:5]] == [span.label or "" for span in expected.segments]
    text = run("timeline", talk, "--hop", "1")[1].splitlines()
    assert text[0] == f"{talk}: 7.00 s"
    assert [line.split()[2] for line in text[1:]] == [span.label or "silence" for span in expected.segments]


def test_subtitles_have_a_cue_for_each_stretch_of_speech(run, talk):
    header, *cues = run("timeline", talk, "--format", "vtt")[1].strip().split("\n\n")
    assert header == "WEBVTT"
    times = [cue.splitlines()[0].split(" --> ") for cue in cues]
    assert [[time[:7] for time in pair] for pair in times] == [["00:00:0"] * 2] * 2
    assert np.allclose([[float(time[6:]) for time in pair] for pair in times], [[1, 3], [4, 6]], atol=0.2)
    assert all(cue.splitlines()[1].split()[0] in LABELS for cue in cues)


def test_raw_audio_through_a_pipe_gives_the_timeline_of_its_file(run, talk, pipe):
    samples, _ = soundfile.read(talk, dtype="int16")
    # Two channels whose mean is the recording, and half a sample behind its end.
    pipe(np.stack([samples, samples], axis=1).astype("<i2").tobytes() + b"\0")
    streamed = run("timeline", "-", "--raw_channels", "2", "--raw_rate", RATE, "--format", "jsonl")[1]
    filed = run("timeline", talk, "--format", "jsonl")[1]

    def rows(printed: str, kind: str) -> list:
        found = [json.loads(line) for line in printed.splitlines()]
        return [(row["start"], row["end"], row["label"]) for row in found if row["kind"] == kind]

    for kind in ("window", "segment"):
        assert rows(streamed, kind) == rows(filed, kind)
        assert rows(streamed, kind)


def test_raw_audio_may_come_in_parts_of_samples(run, talk, monkeypatch):
    samples, _ = soundfile.read(talk, dtype="int16")
    whole = samples.astype("<i2").tobytes()
    # What a pipe gives at a time, as many bytes as it likes.
    parts = iter([*(whole[begin : begin + 777] for begin in range(0, len(whole), 777)), b""])
    monkeypatch.setattr("whisper_ser.commands.timeline._arrived", lambda most: next(parts))
    streamed = run("timeline", "-")[1]
    assert streamed.splitlines() == run("timeline", talk)[1].splitlines()[1:]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["timeline", "-", "--format", "json"], "jsonl"),
        (["timeline", "-", "x.wav"], "only input"),
        (["timeline", "a.wav", "b.wav", "--format", "vtt"], "one recording"),
        (["predict", "a.wav", "--shard_files", "2"], "--output_dir"),
        (["predict", "a.wav", "b.wav", "--plot", "x.png"], "one recording"),
        (["timeline", "a.wav", "--raw_rate", "8000"], "--raw_rate would be ignored"),
        (["timeline", "a.wav", "--raw_channels", "1"], "--raw_channels would be ignored"),
        (["timeline", "-", "--raw_channels", "0"], "at least 1"),
        (["timeline", "-", "--cut", "even"], "leave --cut out"),
    ],
    ids=str,
)
def test_arguments_that_contradict_each_other_are_refused(run, argv, words):
    status, printed, complaints = run(*argv)
    assert (status, printed) == (1, "")
    assert words in complaints


def test_a_reader_that_goes_away_is_no_error():
    code = "from whisper_ser.commands.printing import write_lines; write_lines(map(str, range(10**5)), None)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        process.stdout.close()
        complaints = process.stderr.read().decode()
    assert process.returncode == 0
    assert "pipe" not in complaints.lower()


def test_the_attention_drawn_is_the_models(run, folder, tmp_path, small_model):
    plot = tmp_path / "plot.png"
    assert run("predict", folder / "b.wav", "--plot", plot)[0] == 0
    assert imread(plot).shape[1] > 1000
    found = explain(folder / "b.wav", small_model)
    assert found.attention is not None
    assert found.attention.shape == (12, 50)
    assert found.attention.sum(1) == pytest.approx(1)
    assert found.log_mel.shape == (100, 80)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_attention_is_drawn_where_it_is(tmp_path, share):
    attention = np.full((4, 100), 0.001)
    attention[:, round(100 * share)] = 1
    attention /= attention.sum(1, keepdims=True)
    found = Explanation("a.wav", RATE, speechlike(2.0), np.zeros((200, 80)), attention, {"angry": 1.0})
    draw_attention(found, tmp_path / "a.png")
    image = imread(tmp_path / "a.png")[..., :3]
    # The darkest blue of the map, outside of the colour bar.
    blue = np.argwhere(np.abs(image - np.array([8, 48, 107]) / 255).max(-1) < 0.02)
    columns = blue[:, 1][blue[:, 1] < 0.9 * image.shape[1]]
    axis = np.argwhere((image < 0.1).all(-1).mean(0) > 0.2)[:, 0]
    left, right = axis.min(), axis[axis < 0.95 * image.shape[1]].max()
    assert (np.median(columns) - left) / (right - left) == pytest.approx(share, abs=0.05)


def test_without_attention_waveform_and_log_mel_are_drawn(tmp_path):
    found = Explanation("a.wav", RATE, speechlike(1.0), np.zeros((100, 80)), None, {"angry": 1.0})
    draw_attention(found, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").std() > 0.05


def test_the_timeline_drawn_has_the_colours_of_its_labels(tmp_path):
    def certain(start: float, end: float, label: str | None) -> Span:
        return Span(start, end, None if label is None else {name: float(name == label) for name in LABELS})

    spans = [certain(0, 2, "sad"), certain(2, 4, None), certain(4, 10, "angry")]
    windows = [
        certain(second, second + 1, spans[0 if second < 2 else 1 if second < 4 else 2].label) for second in range(10)
    ]
    draw_timeline(Timeline("a.wav", None, 10.0, 1.0, 1.0, LABELS, None, windows, spans), tmp_path / "a.png")
    image = imread(tmp_path / "a.png")[..., :3]

    def pixels(colour: str) -> int:
        return int((np.abs(image - np.array(to_rgb(colour))).max(-1) < 0.01).sum())

    angry, happy, sad = (pixels(colour) for colour in PALETTE[:3])
    # The legend has a patch of each.
    assert happy < 0.1 * sad
    assert (angry - happy) / (sad - happy) == pytest.approx(3, rel=0.05)
    assert (pixels(SILENCE_COLOUR) - happy) / (sad - happy) == pytest.approx(1, rel=0.1)
