"""What a run is recognised by: settings that change figures, the content of its encoder, and its recordings."""

import os
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import write_corpus
from safetensors.torch import load_file, save_file

from whisper_ser.commands import train
from whisper_ser.errors import CheckpointError
from whisper_ser.training.experiment import prepare_experiment
from whisper_ser.training.identity import run_identity, sample_hashes
from whisper_ser.training.recipe import parse_arguments
from whisper_ser.training.settings import SerTrainingArguments, is_harmless


@pytest.fixture(scope="module")
def planned(corpus, small_checkpoint):
    """Returns the identity of a run for a command line."""
    arguments = parse_arguments(["--data_dir", str(corpus), "--encoder", str(small_checkpoint)])
    experiment = prepare_experiment(arguments)
    (fold,), hashes = experiment.folds, sample_hashes(experiment.records)

    def identity(*flags: str, encoder: Path = small_checkpoint, **changed) -> str:
        arguments = parse_arguments(["--data_dir", str(corpus), "--encoder", str(encoder), *flags])
        for name, value in changed.items():
            setattr(arguments.training, name, value)
        return run_identity(arguments, fold.split, hashes)

    return identity


@pytest.mark.parametrize("field", [f for f in fields(SerTrainingArguments) if f.init], ids=lambda field: field.name)
def test_every_setting_of_the_training_is_part_of_the_identity_unless_it_is_harmless(planned, field):
    # Twice the same, or every other comparison would say nothing.
    assert planned() == planned()
    assert (planned(**{field.name: "something else"}) == planned()) == is_harmless(field)


@pytest.mark.parametrize(
    "flags",
    [
        ["--train_sampling_strategy", "sequential"],
        ["--neftune_noise_alpha", "5"],
        ["--full_determinism", "true"],
        ["--label_smoothing", "0.1"],
        ["--pad_to_seconds", "30"],
        ["--class_weighting", "balanced"],
        ["--augment", "gain"],
    ],
)
def test_flags_that_change_figures_change_the_identity(planned, flags):
    assert planned(*flags) != planned()


@pytest.mark.parametrize("flags", [["--output_dir", "elsewhere"], ["--logging_steps", "7"], ["--jobs", "1"]])
def test_flags_that_change_no_figure_keep_the_identity(planned, flags):
    assert planned(*flags) == planned()


def test_an_encoder_is_known_by_its_content_not_by_how_its_path_is_spelt(
    planned, small_checkpoint, tmp_path, monkeypatch
):
    copied = shutil.copytree(small_checkpoint, tmp_path / "copied")
    link = tmp_path / "link"
    link.symlink_to(small_checkpoint)
    monkeypatch.chdir(small_checkpoint.parent)
    for spelt in (copied, link, Path(os.path.relpath(small_checkpoint)), small_checkpoint / ".." / "copied" / ".."):
        if (spelt / "config.json").is_file():
            assert planned(encoder=spelt) == planned()
    weights = load_file(copied / "model.safetensors")
    weights["encoder.conv1.bias"] += 1
    changed = shutil.copytree(small_checkpoint, tmp_path / "changed")
    save_file(weights, changed / "model.safetensors", {"format": "pt"})
    assert planned(encoder=changed) != planned()


def test_an_unfinished_run_goes_on_when_its_data_folder_is_spelt_differently(
    small_checkpoint, tmp_path, monkeypatch, caplog
):
    corpus = write_corpus(tmp_path / "corpus", speakers=4, each=2)
    flags = ["--encoder", str(small_checkpoint), "--output_dir", str(tmp_path / "run"), "--layers", "1"]
    flags += ["--num_train_epochs", "3", "--feature_dir", str(tmp_path / "features")]

    def stop(trainer, *arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("whisper_ser.training.trainer.SerTrainer.predict", stop)
        train.main(["--data_dir", str(corpus), *flags])
    monkeypatch.chdir(tmp_path)
    before = torch.load  # a resumed run reads the state of its optimizer
    read: list[str] = []
    monkeypatch.setattr(torch, "load", lambda path, *a, **o: read.append(str(path)) or before(path, *a, **o))
    train.main(["--data_dir", "corpus", *flags])
    assert any("optimizer" in path for path in read)
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_run_of_other_recordings_does_not_go_on(small_checkpoint, tmp_path, monkeypatch):
    flags = ["--encoder", str(small_checkpoint), "--output_dir", str(tmp_path / "run"), "--layers", "1"]
    flags += ["--num_train_epochs", "2", "--feature_dir", str(tmp_path / "features")]
    first = write_corpus(tmp_path / "first", speakers=4, each=2)
    other = write_corpus(tmp_path / "other", speakers=5, each=2)

    def stop(trainer, *arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("whisper_ser.training.trainer.SerTrainer.predict", stop)
        train.main(["--data_dir", str(first), *flags])
    with pytest.raises(CheckpointError, match="recordings, labels and parts"):
        train.main(["--data_dir", str(other), *flags])
