"""Augmented views: drawn from the recording alone, encoded once, heard in training and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor
from whisper_ser.audio.augmentation import TRANSFORMS
from whisper_ser.audio.decoding import read_audio
from whisper_ser.commands import train as run_train
from whisper_ser.data.audio_index import index_audio
from whisper_ser.data.leakage import audit
from whisper_ser.data.splits import training_paths
from whisper_ser.errors import RecipeError
from whisper_ser.training import trainer as training
from whisper_ser.training.augmented_views import AugmentedView, augmented_views
from whisper_ser.training.data import load, plan_folds
from whisper_ser.training.experiment import Experiment, plan_runs
from whisper_ser.training.feature_store import Features, fill
from whisper_ser.training.grid import Point
from whisper_ser.training.models import build_model
from whisper_ser.training.recipe import parse_arguments
from whisper_ser.training.runs import RunContext, train_run
from whisper_ser.training.trainer import Examples, Inputs

CHEAP = ["--augment", "speed", "noise", "gain", "--augment_copies", "2"]


def flags(corpus: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    folders = ["--output_dir", str(output), "--feature_dir", str(output.parent / "features")]
    parts = ["--test_speakers", "04", "05", "--validation_speakers", "03", "--layers", "2"]
    return [
        "--data_dir",
        str(corpus),
        "--encoder",
        str(checkpoint),
        *folders,
        *parts,
        "--num_train_epochs",
        "2",
        *more,
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def shards(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")}


def new_model(checkpoint, layer: int = 2):
    return WhisperForEmotionClassification.from_encoder(checkpoint, ["a", "b"], layer_index=layer)


@pytest.fixture(scope="module")
def records(corpus):
    return index_audio(sorted(str(path) for path in corpus.glob("*.wav")), progress=False)


def test_a_copy_depends_on_the_recording_its_number_and_its_transforms_alone(records):
    first, second = list(records.values())[:2]
    view = AugmentedView(("speed", "noise"), 1)
    waveform = view.read(view.of(first), 16000)
    assert np.array_equal(waveform, AugmentedView(("noise", "speed"), 1).read(view.of(first), 16000))
    others = [
        AugmentedView(("speed", "noise"), 2),
        AugmentedView(("speed", "noise", "gain"), 1),
        AugmentedView(("noise",), 1),
    ]
    keys = {first.sample_hash, view.of(first).sample_hash, view.of(second).sample_hash}
    assert len(keys | {other.of(first).sample_hash for other in others}) == 6
    assert len({view.name, *(other.name for other in others)}) == 4
    assert not np.array_equal(waveform, others[0].read(others[0].of(first), 16000))
    moved = first._replace(path=second.path)
    assert view.of(moved).sample_hash == view.of(first).sample_hash


def test_every_copy_draws_some_of_its_transforms_and_all_get_their_turn(records, monkeypatch):
    record, names = next(iter(records.values())), []

    def noted(name):
        return lambda samples, generator, rate: names.append(name) or samples

    for name in TRANSFORMS:
        monkeypatch.setitem(TRANSFORMS, name, noted(name))
    befell = set()
    for number in range(1, 33):
        names.clear()
        view = AugmentedView(("speed", "gain", "noise"), number)
        view.alter(np.zeros(800), view.of(record).sample_hash, 16000)
        befell.add(tuple(names))
    # The order is that of the way from mouth to file, whatever the order asked for.
    pairs = {("speed", "noise"), ("speed", "gain"), ("noise", "gain")}
    assert befell == {("speed",), ("noise",), ("gain",), *pairs, ("speed", "noise", "gain")}


def test_stored_states_of_a_copy_are_those_of_its_waveform(small_checkpoint, records, tmp_path):
    model, extractor, view = (
        new_model(small_checkpoint),
        WhisperSerFeatureExtractor(),
        AugmentedView(("speed", "noise"), 2),
    )
    stored = fill(model, extractor, records, tmp_path, None, view)
    for path in list(records)[::9]:
        audio = view.alter(read_audio(path), view.of(records[path]).sample_hash, 16000)
        states, mask = model.whisper_ser.encode(**extractor(audio, sampling_rate=16000, return_tensors="pt"))
        expected = states[0, :, : int(mask.sum())].detach()
        assert stored.read(path).shape == expected.shape
        assert (stored.read(path).float() - expected).abs().max() < 2e-3 * expected.abs().max()


def test_views_disturb_neither_originals_nor_each_other_and_are_encoded_once(small_checkpoint, records, tmp_path):
    model, extractor = new_model(small_checkpoint), WhisperSerFeatureExtractor()
    fill(model, extractor, records, tmp_path)
    before = {path: (tmp_path / path).stat().st_mtime_ns for path in shards(tmp_path)}
    for view in augmented_views(["gain"], 2):
        fill(model, extractor, records, tmp_path, None, view)
    written = shards(tmp_path)
    assert len(written) == 3 * len(before)
    for view in augmented_views(["gain"], 3):
        fill(model, extractor, records, tmp_path, None, view)
    assert written < shards(tmp_path) and len(shards(tmp_path)) == 4 * len(before)
    assert {path: (tmp_path / path).stat().st_mtime_ns for path in before} == before


def test_two_processes_encode_the_views_of_one(small_checkpoint, corpus, records, tmp_path):
    torch.set_num_threads(1)
    fill(
        new_model(small_checkpoint),
        WhisperSerFeatureExtractor(),
        records,
        tmp_path / "one",
        None,
        AugmentedView(("noise",), 1),
    )
    script = tmp_path / "fill.py"
    script.write_text(
        f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(ROOT / "tests/training")!r}]
from pathlib import Path
from accelerate import PartialState
from modeling_whisper_ser import WhisperSerFeatureExtractor
from test_augmented_views import new_model
from whisper_ser.training.augmented_views import AugmentedView
from whisper_ser.training.feature_store import fill
from whisper_ser.data.audio_index import index_audio
assert PartialState(cpu=True).num_processes == 2
records = index_audio(sorted(str(path) for path in Path({str(corpus)!r}).glob("*.wav")), progress=False)
model = new_model({str(small_checkpoint)!r})
fill(model, WhisperSerFeatureExtractor(), records, Path({str(tmp_path / "two")!r}), None, AugmentedView(("noise",), 1))
"""
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29653"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*torchrun, str(script)], capture_output=True, text=True, env=environment, timeout=900)
    assert result.returncode == 0, result.stderr
    assert shards(tmp_path / "two") == shards(tmp_path / "one")


def stored(number: int, paths: list[str]) -> Features:
    """Features whose states could only be read where `number` is told by the folder: nothing is stored."""
    return Features((number,), 1, {path: f"hash of {path}" for path in paths}, {})


def test_an_epoch_takes_each_utterance_once_as_itself_or_a_copy_and_all_alike():
    paths = [str(number) for number in range(400)]
    originals = Inputs(stored(1, paths), {}, 1.0)
    inputs = originals._replace(augmented_views=tuple(Inputs(stored(layer, paths), {}, 1.0) for layer in (2, 3)))
    examples = Examples(inputs, paths, [0] * 400, seed=5)

    def drawn() -> list[int]:
        return [examples._drawn(path).features.layers[0] for path in paths]

    assert len(examples) == 400
    first = drawn()
    assert first == drawn()
    # Binomial with 400 draws of 1/3: four deviations are 38.
    assert all(abs(first.count(layer) - 400 / 3) < 38 for layer in (1, 2, 3))
    examples.epoch.fill_(1)
    same = sum(one == other for one, other in zip(first, drawn(), strict=True))
    assert abs(same - 400 / 3) < 38
    assert [e._drawn(p).features.layers for e in [Examples(originals, paths, [0] * 400)] for p in paths] == [
        (1,)
    ] * 400


@pytest.fixture(scope="module")
def run(corpus, small_checkpoint, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("augmented") / "run"
    run_train.main(flags(corpus, small_checkpoint, output, *CHEAP))
    return output


def test_views_are_made_of_training_speakers_alone(run, corpus):
    trained = {
        AugmentedView(("speed", "noise", "gain"), number).of(record).sample_hash
        for number in (1, 2)
        for path, record in index_audio(sorted(map(str, corpus.glob("*.wav"))), progress=False).items()
        if Path(path).name[:2] in {"00", "01", "02"}
    }
    altered = [path for path in (run.parent / "features").rglob("*.safetensors") if "copy" in path.parent.name]
    assert {key for path in altered for key in load_file(path)} == trained


def test_what_validates_and_tests_is_never_a_view(corpus, small_checkpoint, tmp_path, monkeypatch):
    read: set[tuple[str, bool]] = set()
    of_original = Features.read

    def spy(features, path):
        altered = "copy" in str(features.places[features.layers[0]][features.keys[path]].file)
        read.add((Path(path).name[:2], altered))
        return of_original(features, path)

    monkeypatch.setattr(Features, "read", spy)
    own = [
        "--data_dir",
        str(corpus),
        "--encoder",
        str(small_checkpoint),
        "--output_dir",
        str(tmp_path / "run"),
        *CHEAP,
    ]
    more = ["--protocol", "loso", "--selection", "validation", "--layers", "2", "--num_train_epochs", "2"]
    arguments = parse_arguments([*own, *more])
    folds = plan_folds(load(arguments.data), arguments.data, arguments.training.seed, 0.2)
    records = index_audio(sorted(training_paths(folds)), progress=False)
    model, extractor = build_model(arguments.model, ["calm", "excited"])
    inputs = training.prepare_inputs(
        model,
        extractor,
        records,
        tmp_path / "features",
        views=arguments.training.augmented_views,
        trained=set(records),
    )
    experiment = Experiment(arguments, "loso", folds, records, audit(folds, records), [])
    run = plan_runs(experiment, Point("", {}, arguments))[0]
    fields = WhisperSerConfig.__annotations__
    assert all(getattr(run.config, name) == getattr(model.config, name) for name in fields if name != "encoder_config")
    train_run(run, RunContext(folds, inputs, extractor, curves=False))
    train, validation, test = ({*part["speaker"]} for part in folds[0].split)
    assert train and validation and test
    # The test and the validation speakers have views, for the folds in which they train.
    assert len(inputs.augmented_views) == 2 and {*inputs.augmented_views[0].features.keys} == {*records}
    assert {speaker for speaker, altered in read if altered} == train
    assert {speaker for speaker, altered in read if not altered} == train | validation | test


def test_channel_statistics_are_those_of_the_recordings(run, corpus, small_checkpoint, tmp_path):
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "plain"))
    plain, augmented = weights(tmp_path / "plain"), weights(run)
    for name in ("mean", "deviation"):
        key = f"whisper_ser.standardisation.{name}"
        assert torch.equal(plain[key], augmented[key])
    key = "whisper_ser.projector.weight"
    assert not torch.equal(plain[key], augmented[key])


def test_the_same_seed_gives_the_same_weights_and_predictions(run, corpus, small_checkpoint, tmp_path):
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "again", *CHEAP))
    again = weights(tmp_path / "again")
    assert all(torch.equal(tensor, again[key]) for key, tensor in weights(run).items())
    pandas.testing.assert_frame_equal(
        pandas.read_parquet(run / "predictions.parquet"), pandas.read_parquet(tmp_path / "again/predictions.parquet")
    )


def test_trained_encoder_layers_hear_the_views_too(corpus, small_checkpoint, tmp_path, monkeypatch):
    heard: list[Inputs] = []
    original = training.prepare_inputs

    def spy(*arguments, **options):
        heard.append(original(*arguments, **options))
        return heard[-1]

    monkeypatch.setattr("whisper_ser.training.experiment.prepare_inputs", spy)
    more = ["--unfreeze_last_n", "1", "--num_train_epochs", "1", *CHEAP]
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", *more))
    (inputs,) = heard
    view, extractor = AugmentedView(("speed", "noise", "gain"), 2), WhisperSerFeatureExtractor()
    trained = [path for path in inputs.log_mels if Path(path).name[:2] in {"00", "01", "02"}]
    assert {*inputs.augmented_views[1].log_mels} == {*trained} and len(trained) == 18
    record = index_audio(trained[:1], progress=False)[trained[0]]
    expected = extractor(view.read(view.of(record), 16000), sampling_rate=16000, return_tensors="np")["input_features"]
    assert np.array_equal(inputs.augmented_views[1].read(trained[0])["input_features"], expected[0])
    assert not list((tmp_path / "features").rglob("copy*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment_copies", "2"], "only with --augment, which names"),
        (["--augment", "gain", "--augment_copies", "0"], "at least 1"),
        (["--augment", "echo"], "echo"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        parse_arguments(["--encoder", "x", *options])
