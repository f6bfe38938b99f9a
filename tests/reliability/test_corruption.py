"""Bytes that change on the disk are found: what was stored is made again, or refused by its name."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_small_model, speechlike
from safetensors.torch import load_file
from test_ctranslate2 import write_ctranslate2

import whisper_ser
from modeling_whisper_ser import (
    ConfigError,
    EncoderCheckpointError,
    MissingWeightsError,
    WhisperForEmotionClassification,
    WhisperSerFeatureExtractor,
)
from reliability.processes import child, finished, note, notes
from reliability.work import FLAGS, run_flags
from whisper_ser import cli
from whisper_ser.commands import train as run_train
from whisper_ser.data.audio_index import index_audio
from whisper_ser.data.corpora.emobox import load_emobox
from whisper_ser.data.corpora.table import load_table
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.errors import (
    CheckpointError,
    CorpusError,
    DamagedFileError,
    ExportError,
    InferenceError,
    RecipeError,
    WhisperSerError,
)
from whisper_ser.evaluation.results import check_predictions, read_result
from whisper_ser.hub.verify import verify
from whisper_ser.inference.reference_output import read_reference_output, write_reference_output
from whisper_ser.inference.reference_waveform import ReferenceOutputError
from whisper_ser.io import write_checksums
from whisper_ser.training import trainer as training
from whisper_ser.training.feature_store import fill
from whisper_ser.training.recipe import parse_arguments
from whisper_ser.training.trainer import _last_whole_checkpoint

TYPED = (WhisperSerError, ConfigError, MissingWeightsError, OSError)
"""What the doors tell in one line."""


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with some bits changed, some cut off, or some others put in."""
    spoilt = bytearray(content)
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(spoilt[: rng.randrange(len(spoilt))])
    if kind == 1:
        place = rng.randrange(len(spoilt))
        spoilt[place : place + rng.randint(1, 64)] = rng.randbytes(rng.randint(1, 64))
        return bytes(spoilt) if bytes(spoilt) != content else b""
    for place in {rng.randrange(len(spoilt)) for _ in range(1 if kind < 5 else 4)}:
        spoilt[place] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def damages(path: Path, times: int, seed: int = 0) -> Iterator[None]:
    """Damages a file anew each time; it is whole again in the end."""
    whole, rng = path.read_bytes(), random.Random(f"{path.name}{seed}")
    for _ in range(times):
        path.write_bytes(damaged(whole, rng))
        yield
    path.write_bytes(whole)


@pytest.fixture
def times(thorough) -> int:
    return 300 if thorough else 25


@pytest.fixture
def model(trained, tmp_path) -> Path:
    """A saved model, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run")) / "model"


def test_stored_states_are_encoded_anew(small_checkpoint, corpus, tmp_path, times, tried):
    records = index_audio(sorted(str(path) for path in corpus.glob("00_*.wav")), progress=False)
    network = WhisperForEmotionClassification.from_encoder(small_checkpoint, ["a", "b"], layer_index=1)
    expected = fill(network, WhisperSerFeatureExtractor(), records, tmp_path)
    states = {path: expected.read(path) for path in records}
    (shard,) = tmp_path.rglob("*.safetensors")
    whole = shard.read_bytes()
    for _ in damages(shard, times):
        stored = fill(network, WhisperSerFeatureExtractor(), records, tmp_path)
        assert all(torch.equal(stored.read(path), states[path]) for path in records) and shard.read_bytes() == whole
        tried(1)


@pytest.fixture(scope="module")
def stopped(corpus, small_checkpoint, tmp_path_factory) -> Path:
    """A training that was stopped after its third epoch, two checkpoints left."""
    folder = tmp_path_factory.mktemp("stopped")
    write = training.write_checksums

    def stop_after_the_third(checkpoint: Path) -> None:
        write(checkpoint)
        if checkpoint.name.endswith("-9"):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_checksums", stop_after_the_third)
        torch.set_num_threads(1)
        with pytest.raises(KeyboardInterrupt):
            run_train.main(run_flags(corpus, small_checkpoint, folder / "run", *FLAGS, "--save_total_limit", "2"))
    assert {path.name for path in (folder / "run/checkpoints").glob("checkpoint-*")} >= {
        "checkpoint-6",
        "checkpoint-9",
    }
    return folder / "run"


def test_a_damaged_checkpoint_is_passed_over(stopped, tmp_path, times, tried):
    rng = random.Random(0)
    for number in range(times):
        checkpoints = Path(shutil.copytree(stopped / "checkpoints", tmp_path / str(number)))
        files = sorted(path for path in (checkpoints / "checkpoint-9").iterdir() if path.is_file())
        file = files[number % len(files)]
        file.write_bytes(damaged(file.read_bytes(), rng))
        assert _last_whole_checkpoint(checkpoints) == str(checkpoints / "checkpoint-6"), file.name
        assert not (checkpoints / "checkpoint-9").exists()
        shutil.rmtree(checkpoints)
        tried(1)


def test_training_goes_on_from_the_checkpoint_before_and_ends_alike(
    stopped, corpus, small_checkpoint, tmp_path, thorough, tried
):
    torch.set_num_threads(1)
    argv = run_flags(corpus, small_checkpoint, tmp_path / "whole", *FLAGS, "--save_total_limit", "2")
    run_train.main(argv)
    expected = load_file(tmp_path / "whole/model/model.safetensors")
    names = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json"]
    for name in names if thorough else names[1:2]:
        output = tmp_path / "run"
        shutil.copytree(stopped, output)
        file = output / "checkpoints/checkpoint-9" / name
        file.write_bytes(damaged(file.read_bytes(), random.Random(name)))
        run_train.main(run_flags(corpus, small_checkpoint, output, *FLAGS, "--save_total_limit", "2"))
        found = load_file(output / "model/model.safetensors")
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        shutil.rmtree(output)
        tried(1)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_damaged_model_is_refused_by_its_name(model, times, tried, name):
    for _ in damages(model / name, times):
        with pytest.raises(TYPED) as error:
            whisper_ser.load_model(model, "cpu")
        assert name in str(error.value) or str(model) in str(error.value)
        with pytest.raises(TYPED):
            verify(model)
        tried(2)
    assert whisper_ser.load_model(model, "cpu")


def test_a_damaged_known_answer_is_refused_or_asks_the_same(model, times, tried):
    known = read_reference_output(model)
    for _ in damages(model / "known_answer.json", times):
        try:
            verify(model)
        except ReferenceOutputError as error:
            assert "known_answer.json" in str(error) or str(model) in str(error) or "reference output" in str(error)
        else:
            found = read_reference_output(model)
            # A digit beyond the tolerance, or of a waveform whose answer is the same.
            assert found["sha256"] == known["sha256"]
            assert found["probabilities"] == pytest.approx(known["probabilities"], abs=2 * known["tolerance"])
        tried(1)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_without_a_known_answer_nothing_crashes_and_no_answer_is_nan(small_checkpoint, tmp_path, times, tried, name):
    folder = save_small_model(small_checkpoint, tmp_path / "model")
    for _ in damages(folder / name, times):
        try:
            (answer,) = whisper_ser.predict(speechlike(0.5), whisper_ser.load_model(folder, "cpu"))
        except TYPED as error:
            assert str(error)
        else:
            assert np.isfinite(list(answer.probabilities.values())).all()
        tried(1)


def test_damaged_metrics_and_predictions_are_refused_by_their_names(model, times, tried):
    run = model.parent
    result = read_result(run / "metrics.json")
    for _ in damages(run / "metrics.json", times):
        try:
            assert read_result(run / "metrics.json") == result, "the same in other words"
        except DamagedFileError as error:
            assert "metrics.json" in str(error)
        tried(1)
    for number, _ in enumerate(damages(run / "predictions.parquet", times)):
        with pytest.raises(DamagedFileError, match="predictions.parquet"):
            check_predictions(run)
        if number < 3:
            assert cli.main(["compare", str(run), str(run)]) == 1
        tried(1)
    assert cli.main(["compare", str(run), str(run), "--resamples", "10"]) == 0


def test_a_damaged_fold_is_trained_again_and_no_other(corpus, small_checkpoint, tmp_path, tried):
    argv = run_flags(corpus, small_checkpoint, tmp_path / "run", "--protocol", "loso", "--layers", "1")
    argv += ["--num_train_epochs", "1", "--jobs", "1"]
    torch.set_num_threads(1)
    run_train.main(argv)
    run = tmp_path / "run"
    expected = {path: path.read_bytes() for path in run.glob("folds/*/predictions.parquet")}
    folds = sorted(path.parent for path in expected)
    for fold, name in ((folds[1], "predictions.parquet"), (folds[3], "metrics.json")):
        (fold / name).write_bytes(damaged((fold / name).read_bytes(), random.Random(1)))
    before = {fold: (fold / "metrics.json").stat().st_mtime_ns for fold in folds}
    run_train.main(argv)
    again = [fold for fold in folds if (fold / "metrics.json").stat().st_mtime_ns != before[fold]]
    assert again == [folds[1], folds[3]]
    assert all(path.read_bytes() == content for path, content in expected.items())
    tried(2)


def test_damaged_recipes_are_refused_by_their_names_or_say_something_else(model, times, tried):
    recipe = model.parent / "recipe.json"
    for _ in damages(recipe, 3 * times):
        try:
            assert parse_arguments([str(recipe)])
        except RecipeError as error:
            assert str(recipe) in str(error)
        tried(1)


def test_damaged_tables_are_refused_by_their_names_or_are_tables(corpus, tmp_path, times, tried):
    folder = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    for _ in damages(folder / "metadata.csv", 3 * times):
        try:
            assert len(load_table(folder, labels=["calm", "excited"])) > 1
        except CorpusError as error:
            assert str(folder) in str(error)
        tried(1)


def test_damaged_manifests_are_refused_by_their_names_or_are_manifests(corpus, tmp_path, times, tried):
    manifest = tmp_path / "EmoBox" / "data" / "tones"
    for fold in ("1", "2"):
        (manifest / f"fold_{fold}").mkdir(parents=True)
    names = sorted(path.name for path in corpus.glob("*.wav"))
    for part in ("train", "test"):
        for fold in (0, 1):
            tests = fold if part == "test" else 1 - fold
            lines = [
                json.dumps({"key": name[:-4], "wav": f"downloads/tones/{name}", "emo": name.split("_")[1]})
                for number, name in enumerate(names)
                if number % 2 == tests
            ]
            path = manifest / f"fold_{fold + 1}" / f"tones_{part}_fold_{fold + 1}.jsonl"
            path.write_text("\n".join(lines) + "\n")
    (manifest / "label_map.json").write_text(json.dumps({"calm": "calm", "excited": "excited"}))
    shutil.copytree(corpus, tmp_path / "EmoBox" / "downloads" / "tones")
    assert len(load_emobox(manifest)) == 36
    for file in (manifest / "label_map.json", manifest / "fold_2" / "tones_test_fold_2.jsonl"):
        for _ in damages(file, times):
            try:
                assert len(load_emobox(manifest))
            except CorpusError as error:
                assert str(tmp_path) in str(error) or "manifest" in str(error)
            tried(1)


@pytest.mark.parametrize("kind", ["model.safetensors", "config.json", "model.bin"])
def test_damaged_encoders_are_refused_or_read(
    small_whisper, small_checkpoint, tmp_path, times, tried, kind, monkeypatch
):
    monkeypatch.setenv("WHISPER_SER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "encoder"
    folder.mkdir()
    if kind == "model.bin":
        write_ctranslate2(folder / "model.bin", small_whisper)
    else:
        shutil.copytree(small_checkpoint, folder, dirs_exist_ok=True)
    for _ in damages(folder / kind, times):
        try:
            source = resolve_encoder(str(folder))
            assert WhisperForEmotionClassification.from_encoder(source, ["a", "b"], layer_index=1)
        except (EncoderCheckpointError, ConfigError, OSError) as error:
            assert str(error)
        tried(1)


def try_exports(path: Path, times: int, log: Path) -> None:
    from whisper_ser.inference.engines.exported import ExportedModel

    voice = speechlike(0.7)
    expected = ExportedModel(path).probabilities([voice])
    for _ in damages(path, times):
        note(log, begun=True)
        try:
            found = ExportedModel(path)
            found.verify()
            difference = float(np.abs(found.probabilities([voice]) - expected).max())
            note(log, difference=difference)
        except (ExportError, InferenceError, ReferenceOutputError) as error:
            note(log, refused=str(error)[:200])


def test_damaged_exports_are_refused_or_answer_alike(small_model, tmp_path, times, tried):
    pytest.importorskip("onnx")
    from whisper_ser.export.onnx import export_onnx

    path, log = tmp_path / "model.onnx", tmp_path / "log"
    export_onnx(small_model, path)
    assert finished(child(try_exports, path, times, log)) == 0, notes(log)[-1:]
    outcomes = notes(log)[1::2]
    assert len(outcomes) == times and sum("refused" in one for one in outcomes) > times // 4
    assert all(one["difference"] < 0.02 for one in outcomes if "difference" in one)
    tried(times)


def test_a_known_answer_of_an_absurd_waveform_takes_no_memory(model, tried):
    known = read_reference_output(model)
    for change in (
        {"seconds": 1e12},
        {"sampling_rate": 10**12},
        {"seconds": float("nan")},
        {"parameters": {}},
        {"parameters": {**known["waveform"]["parameters"], "h": 10**9}},
    ):
        spoilt = {**known, "waveform": {**known["waveform"], **change}}
        (model / "known_answer.json").write_text(json.dumps(spoilt))
        with pytest.raises(ReferenceOutputError, match="impossible waveform"):
            verify(model)
        tried(1)


def test_what_a_newer_save_writes_is_trusted_again(model, tried):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "chunk_seconds": 2.0}))
    with pytest.raises(ReferenceOutputError, match=r"config\.json is not the file that was saved"):
        whisper_ser.load_model(model, "cpu")
    write_reference_output(model)
    assert whisper_ser.load_model(model, "cpu").settings.chunk_frames == 100
    tried(1)


def test_a_checkpoint_that_is_named_is_checked_as_well(stopped, corpus, small_checkpoint, tmp_path, tried):
    checkpoint = Path(shutil.copytree(stopped / "checkpoints/checkpoint-9", tmp_path / "checkpoint-9"))
    write_checksums(checkpoint)
    (checkpoint / "optimizer.pt").write_bytes(b"x" + (checkpoint / "optimizer.pt").read_bytes()[1:])
    argv = run_flags(corpus, small_checkpoint, tmp_path / "run", *FLAGS, "--resume_from_checkpoint", str(checkpoint))
    with pytest.raises(CheckpointError, match="optimizer.pt"):
        run_train.main(argv)
    tried(1)
