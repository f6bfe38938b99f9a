"""`whisper-ser predict --output_dir`: answers in shards that several processes divide and an interruption leaves."""

import json
import os
import signal
import subprocess
import sys

import pandas
import pytest
import soundfile
import torch
from conftest import RATE, ROOT, save_small_model, speechlike
from processes import torchrun

from whisper_ser import load_model
from whisper_ser.cli import main
from whisper_ser.inference import sharded

RECORDINGS = 23


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of 23 short recordings, of which the tenth is none."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(RECORDINGS):
        audio = speechlike(0.2 + 0.05 * (number % 7), 90 + 10 * number, number)
        soundfile.write(folder / f"{number:02d}.wav", audio, RATE)
    (folder / "09.wav").write_text("no audio")
    return folder


@pytest.fixture
def predict(recordings, small_model, monkeypatch, capsys):
    """Predicts the folder in shards of 3; returns the exit status and the complaints."""
    # As under torchrun, so that no bit differs.
    torch.set_num_threads(1)

    def predict(output, *more) -> tuple[int, str]:
        given = ["predict", recordings, "--model", small_model, "--device", "cpu", "--output_dir", output]
        status = main([*map(str, given), "--shard_files", "3", *map(str, more)])
        return status, capsys.readouterr().err

    return predict


@pytest.fixture
def answered(monkeypatch) -> list[str]:
    """Lists the first file of each shard that is answered."""
    first: list[str] = []
    answer = sharded.predict_shard
    monkeypatch.setattr(
        "whisper_ser.commands.sharded.predict_shard",
        lambda shard, *more: first.append(os.path.basename(shard.files[0])) or answer(shard, *more),
    )
    return first


def rank(monkeypatch, index: int, count: int) -> None:
    """Makes the command believe that it is one of several processes."""

    monkeypatch.setattr("whisper_ser.commands.sharded.share", lambda arguments: (index, count))


def shards(output) -> dict[str, int]:
    """Returns when each shard was written, by name."""
    return {path.name: path.stat().st_mtime_ns for path in sorted((output / "shards").iterdir())}


def change(path, fields: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_the_joined_table_is_that_of_the_plain_command(predict, recordings, small_model, tmp_path, kind):
    plain = ["predict", recordings, "--model", small_model, "--device", "cpu", "--format", kind, "--batch_size", "1"]
    assert main([*map(str, plain), "--output", str(tmp_path / "plain")]) == 1
    assert predict(tmp_path / "out", "--format", kind, "--batch_size", "1")[0] == 1
    assert (tmp_path / "out" / f"predictions.{kind}").read_bytes() == (tmp_path / "plain").read_bytes()


def test_shards_of_the_usual_size_change_no_bit(recordings, small_model, tmp_path, monkeypatch):
    # 16 stands for 1024: both are multiples of the 8 clips (64) that are sorted together.
    monkeypatch.setattr("whisper_ser.inference.predict.BATCHES_READ", 4)
    assert sharded.SHARD_FILES % 64 == 0
    plain = ["predict", str(recordings), "--model", str(small_model), "--device", "cpu", "--format", "jsonl"]
    plain += ["--batch_size", "2"]
    main([*plain, "--output", str(tmp_path / "plain")])
    main([*plain, "--output_dir", str(tmp_path / "out"), "--shard_files", "16"])
    assert len(shards(tmp_path / "out")) == 2
    assert (tmp_path / "out/predictions.jsonl").read_bytes() == (tmp_path / "plain").read_bytes()


def test_the_table_is_parquet_and_failures_are_told_beside_it(predict, recordings, tmp_path):
    status, complaints = predict(tmp_path)
    assert status == 1 and "1 could not be used" in complaints and "failures.jsonl" in complaints
    table = pandas.read_parquet(tmp_path / "predictions.parquet")
    assert list(table["file"]) == [str(recordings / f"{n:02d}.wav") for n in range(RECORDINGS) if n != 9]
    (failure,) = map(json.loads, (tmp_path / "failures.jsonl").read_text().splitlines())
    assert failure["file"] == str(recordings / "09.wav") and "cannot be read" in failure["reason"]
    assert sorted(os.listdir(tmp_path)) == ["failures.jsonl", "predictions.parquet", "shards"]


def test_what_is_done_is_not_done_again(predict, tmp_path, answered, monkeypatch):
    predict(tmp_path)
    assert answered == [f"{n:02d}.wav" for n in range(0, RECORDINGS, 3)]
    before, table = shards(tmp_path), (tmp_path / "predictions.parquet").read_bytes()
    answered.clear()
    next((tmp_path / "shards").glob("000002-*")).unlink()
    assert predict(tmp_path, "--batch_size", "3")[0] == 1
    assert answered == ["06.wav"]
    assert {name: time for name, time in shards(tmp_path).items() if not name.startswith("000002")} == {
        name: time for name, time in before.items() if not name.startswith("000002")
    }
    assert (tmp_path / "predictions.parquet").read_bytes() == table


def test_each_process_does_its_share_and_the_last_one_joins(predict, tmp_path, answered, monkeypatch):
    predict(tmp_path / "one")
    answered.clear()
    for index, firsts in ((2, ["06.wav", "15.wav"]), (0, ["00.wav", "09.wav", "18.wav"]), (1, None)):
        assert not (tmp_path / "three/predictions.parquet").exists()
        rank(monkeypatch, index, 3)
        answered.clear()
        # A bad recording is no crash: torchrun would end the others.
        assert predict(tmp_path / "three")[0] == 0
        assert firsts is None or answered == firsts
    assert answered == ["03.wav", "12.wav", "21.wav"]
    for name in ("predictions.parquet", "failures.jsonl"):
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_more_processes_than_shards_leave_some_without_work(predict, tmp_path, answered, monkeypatch):
    rank(monkeypatch, 8, 9)
    assert predict(tmp_path)[0] == 0 and not answered


def test_a_change_of_one_recording_costs_its_shard_alone(predict, recordings, tmp_path, answered):
    path = recordings / "04.wav"
    predict(tmp_path)
    answered.clear()
    before = path.read_bytes()
    try:
        soundfile.write(path, speechlike(0.5, 300), RATE)
        predict(tmp_path)
        changed = pandas.read_parquet(tmp_path / "predictions.parquet").set_index("file").loc[str(path)]
        assert changed["seconds"] == 0.5
    finally:
        path.write_bytes(before)
    assert answered == ["03.wav"]


@pytest.mark.parametrize(
    "more", [["--top_k", "1"], ["--abstain_below", "0.9"], ["--channels", "separate"]], ids=lambda more: more[0]
)
def test_another_question_is_another_answer(predict, tmp_path, answered, more):
    predict(tmp_path)
    assert len(answered) == 8
    predict(tmp_path, *more)
    assert len(answered) == 16


def test_another_model_or_extractor_is_another_answer(recordings, small_checkpoint, tmp_path):
    some = [str(recordings / "00.wav")]

    def path(folder) -> str:
        (shard,) = sharded.shards_of(some, tmp_path, load_model(folder, "cpu"), sharded.ShardOptions())
        return shard.path.name

    folder = save_small_model(small_checkpoint, tmp_path / "model")
    first = path(folder)
    assert path(folder) == first
    assert path(save_small_model(small_checkpoint, tmp_path / "padded", pad_to_seconds=2.0)) != first
    assert path(save_small_model(small_checkpoint, tmp_path / "chunks", chunk_seconds=0.5)) != first
    renamed = {"id2label": {"0": "sad", "1": "happy", "2": "angry"}, "label2id": {"sad": 0, "happy": 1, "angry": 2}}
    change(folder / "config.json", renamed)
    assert path(folder) != first


def test_told_to_stop_it_finishes_the_shard_and_no_other(predict, tmp_path, answered, monkeypatch):
    answer = sharded.predict_shard

    def terminated(shard, *more) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        answer(shard, *more)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr("whisper_ser.commands.sharded.predict_shard", terminated)
        assert predict(tmp_path)[0] == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert [name[:6] for name in shards(tmp_path)] == ["000000"]
    assert os.listdir(tmp_path) == ["shards"]
    predict(tmp_path)
    assert answered[0] == "03.wav" and (tmp_path / "predictions.parquet").exists()


def test_a_damaged_shard_is_named(predict, tmp_path):
    predict(tmp_path)
    path = next((tmp_path / "shards").glob("000001-*"))
    path.write_text(path.read_text()[:-30])
    status, complaints = predict(tmp_path)
    assert status == 1 and f"{path} is damaged" in complaints and "remove it" in complaints


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--output", "x.csv"], "--output"),
        (["--plot", "x.png"], "--plot"),
        (["--format", "json"], "not json"),
        (["--shard_files", "0"], "shard_files=0"),
    ],
    ids=lambda value: value[0],
)
def test_what_does_not_go_with_shards_is_refused(predict, tmp_path, more, words):
    status, complaints = predict(tmp_path / "out", *more)
    assert status == 1 and words in complaints and not (tmp_path / "out").exists()


def test_a_pipe_cannot_be_divided(small_model, tmp_path, capsys):
    assert main(["predict", "-", "--model", str(small_model), "--output_dir", str(tmp_path / "out")]) == 1
    assert "--output_dir does not go with -: leave one of them out" in capsys.readouterr().err


def test_several_processes_need_a_folder_to_share(recordings, small_model, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["predict", str(recordings), "--model", str(small_model)]) == 1
    assert "add it" in capsys.readouterr().err
    given = ["predict", str(recordings), "--model", str(small_model), "--output_dir", "out"]
    assert main(given) == 1
    assert "start them with torchrun" in capsys.readouterr().err


def test_the_package_is_the_command():
    shown = subprocess.run(
        [sys.executable, "-m", "whisper_ser", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.stdout.startswith("whisper-ser ")


WORKER = """
import os, runpy, signal
from whisper_ser.commands import sharded

assert os.environ["WORLD_SIZE"] == "4"
answer, done = sharded.predict_shard, []

def deadly(shard, *more):
    if os.environ["RANK"] == "1" and done:
        os.kill(os.getpid(), signal.SIGKILL)
    answer(shard, *more)
    done.append(shard)

if "DEADLY" in os.environ:
    sharded.predict_shard = deadly
runpy.run_module("whisper_ser", run_name="__main__")
"""


def test_one_of_four_processes_is_killed_and_the_work_goes_on(predict, recordings, small_model, tmp_path):
    predict(tmp_path / "one")
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    given = ["predict", recordings, "--model", small_model, "--device", "cpu", "--shard_files", 3]
    given += ["--output_dir", tmp_path / "four"]
    killed = torchrun(4, script, *given, DEADLY="1")
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr
    # The second process had done shard 1 and died in shard 5.
    kept = shards(tmp_path / "four")
    numbers = [name[:6] for name in kept]
    assert "000001" in numbers and "000005" not in numbers
    assert not (tmp_path / "four/predictions.parquet").exists()
    again = torchrun(4, script, *given)
    assert again.returncode == 0, again.stderr
    assert kept.items() <= shards(tmp_path / "four").items()
    assert shards(tmp_path / "four").keys() == shards(tmp_path / "one").keys()
    for name in ("predictions.parquet", "failures.jsonl", *(f"shards/{name}" for name in shards(tmp_path / "one"))):
        assert (tmp_path / "four" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
