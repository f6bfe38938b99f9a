"""Sweeps: every setting on every fold, from one encoder pass, nothing trained twice."""

import json
import os
import re
from pathlib import Path

import pandas
import pytest
import torch
from conftest import ROOT, write_corpus
from transformers import set_seed

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, encoder_whisper_ser
from modeling_whisper_ser.configuration_whisper_ser import ConfigError
from whisper_ser.commands import train as run_train
from whisper_ser.errors import CheckpointError, RecipeError
from whisper_ser.evaluation.results import RunResult, read_result
from whisper_ser.training import models, runs
from whisper_ser.training.experiment import new_config, prepare_experiment
from whisper_ser.training.grid import point_name, points_of
from whisper_ser.training.models import head_model
from whisper_ser.training.recipe import parse_arguments
from whisper_ser.training.runs import TrainingError
from whisper_ser.training.sweep import is_sweep


def flags(corpus: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    own = ["--data_dir", str(corpus), "--encoder", str(checkpoint), "--output_dir", str(output), "--jobs", "1"]
    protocol = ["--protocol", "speaker_groups", "--num_groups", "2", "--num_train_epochs", "2"]
    return [*own, *protocol, "--feature_dir", str(output.parent / "features"), *more]


def vary(**axes) -> list[str]:
    return ["--grid", json.dumps(axes)]


def folders_of(output: Path) -> list[Path]:
    """Returns the folders of all trainings."""
    return sorted(path.parent for path in output.glob("variants/*/folds/*/metrics.json"))


def results_of(output: Path) -> list[RunResult]:
    return [read_result(folder / "metrics.json") for folder in folders_of(output)]


@pytest.fixture(scope="module")
def swept(corpus, small_checkpoint, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("sweeps") / "sweep"
    run_train.main(flags(corpus, small_checkpoint, output, *vary(layers=[[1], [3]], pooling_type=["mean", "qkv"])))
    return output


def test_every_cell_is_there_once(swept):
    found = []
    for folder, result in zip(folders_of(swept), results_of(swept), strict=True):
        (fold,), config = result.folds, WhisperSerConfig.from_dict(result.model.config)
        found.append((config.layer_index, config.pooling_type, fold.seed, fold.name))
        assert config.encoder_config.encoder_layers == 3
        assert len(pandas.read_parquet(folder / "predictions.parquet")) == fold.test.utterances == 18
        assert [epoch.epoch for epoch in fold.history] == [1, 2]
        assert fold.history[-1].test["ua"] == fold.test.ua and fold.history[0].loss > 0
    assert found == [(layer, pooling, 42, fold) for layer in (1, 3) for pooling in ("mean", "qkv") for fold in "12"]


@pytest.mark.parametrize("layer", ["1", "3"])
def test_a_cell_is_what_the_setting_gives_alone(swept, corpus, small_checkpoint, tmp_path, layer):
    alone = tmp_path / "alone"
    run_train.main(flags(corpus, small_checkpoint, alone, "--layers", layer, "--pooling_type", "mean"))
    expected = pandas.read_parquet(alone / "predictions.parquet")
    got = pandas.read_parquet(swept / "variants" / f"layer_{layer}__mean" / "predictions.parquet")
    pandas.testing.assert_frame_equal(got, expected, rtol=1e-4, atol=1e-5)


def test_an_interrupted_sweep_goes_on_with_the_cells_that_are_missing(
    swept, corpus, small_checkpoint, tmp_path, monkeypatch
):
    output, done, write_fold = tmp_path / "sweep", [], runs.write_fold

    def die_in_the_sixth(folder, *arguments):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(folder)
        return write_fold(folder, *arguments)

    own = flags(corpus, small_checkpoint, output, *vary(layers=[[1], [3]], pooling_type=["mean", "qkv"]))
    monkeypatch.setattr(runs, "write_fold", die_in_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        run_train.main(own)
    assert not (output / "report").exists()
    with pytest.raises(CheckpointError, match="num_train_epochs was 2"):
        run_train.main([*own, "--num_train_epochs", "3"])
    again: list[Path] = []
    monkeypatch.setattr(runs, "write_fold", lambda *a: again.append(a[0]) or write_fold(*a))
    run_train.main(own)
    assert len(again) == 3 and not {*again} & {*done}
    for ours, theirs in zip(results_of(output), results_of(swept), strict=True):
        assert ours.folds == theirs.folds
    again.clear()
    run_train.main([*own[:-2], *vary(layers=[[1], [3]], pooling_type=["mean", "qkv", "attentive"])])
    assert {folder.parts[-3] for folder in again} == {"layer_1__attentive", "layer_3__attentive"} and len(again) == 4
    assert len(results_of(output)) == 12


def test_cells_side_by_side_give_what_they_give_one_after_the_other(swept, corpus, small_checkpoint, tmp_path):
    output = tmp_path / "sweep"
    more = [*vary(layers=[[1], [3]], pooling_type=["mean", "qkv"]), "--jobs", "2"]
    run_train.main(flags(corpus, small_checkpoint, output, *more))
    for ours, theirs in zip(results_of(output), results_of(swept), strict=True):
        assert ours.test.confusion_matrix == theirs.test.confusion_matrix
        assert ours.folds[0].history[-1].loss == pytest.approx(theirs.folds[0].history[-1].loss, rel=1e-3)


def die(cell):
    os._exit(1)


def test_a_training_process_that_dies_is_told_in_words(corpus, small_checkpoint, tmp_path, monkeypatch):
    own = flags(corpus, small_checkpoint, tmp_path / "sweep", *vary(pooling_type=["mean"]), "--jobs", "2")
    monkeypatch.setattr(runs, "_run_in_process", die)
    with pytest.raises(TrainingError, match="training processes died.*start the same command again"):
        run_train.main(own)


def test_a_folder_holds_one_kind_of_run(corpus, small_checkpoint, tmp_path):
    for name, kind in (("model", "a trained model"), ("folds", "a cross-validation")):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(RecipeError, match=rf"holds {kind} \({name}/\): choose another"):
            run_train.main(flags(corpus, small_checkpoint, tmp_path / name, *vary(pooling_type=["mean"])))


def test_settings_of_an_axis_may_go_together(corpus, small_checkpoint, tmp_path):
    own = {"pooling_type": "qkv", "layer_norm_after_pooling": True}
    axes = vary(pooling=[{"pooling_type": "mean"}, own])
    experiment = prepare_experiment(parse_arguments(flags(corpus, small_checkpoint, tmp_path / "sweep", *axes)))
    configs = [new_config(experiment, point.arguments) for point in experiment.points()]
    assert [(c.pooling_type, c.layer_norm_after_pooling) for c in configs] == [("mean", False), ("qkv", True)]
    assert is_sweep(experiment, experiment.points())


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes" / "paper").glob("*.json")))
def test_the_papers_recipes_are_section_4_2(recipe):
    arguments = parse_arguments([str(ROOT / "recipes" / "paper" / recipe), "--data_dir", "x"])
    heads = {"shemo": 6, "iemocap": 12}[arguments.data.corpus]
    assert (arguments.model.num_pooling_heads, arguments.model.pooling_head_dim) == (heads, 4)
    training = arguments.training
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (30, 16)
    assert (training.learning_rate, training.lr_scheduler_type, training.warmup_steps) == (1e-3, "cosine", 0.1)
    points = points_of(arguments, lambda encoder: 4)
    poolings = [point.arguments.model.pooling_type for point in points]
    assert {*poolings} == {"mean", "attentive", "qkv"} and len(points) == 2 * 3 * 4
    like_for_like = "honest" not in recipe
    assert (training.selection == "test_best") == like_for_like
    assert arguments.model.pad_to_seconds == (30 if like_for_like else None)
    released = {point.arguments.model.score_activation for point in points if point.own["pooling_type"] == "qkv"}
    assert released == ({"tanh"} if "code" in recipe else {None})


def test_folds_whose_names_a_file_system_cannot_tell_apart_are_all_there(small_checkpoint, tmp_path):
    names = ["\u5f20", "\u674e", "J\u00fcrgen", "J\u00f6rgen"]
    corpus = write_corpus(tmp_path / "corpus", speakers=4, each=1)
    table = (corpus / "metadata.csv").read_text()
    for number, name in enumerate(names):
        table = re.sub(rf",{number:02d}$", f",{name}", table, flags=re.M)
    (corpus / "metadata.csv").write_text(table, encoding="utf-8")
    own = flags(corpus, small_checkpoint, tmp_path / "sweep", *vary(pooling_type=["mean"]), "--num_train_epochs", "1")
    own[own.index("speaker_groups")] = "loso"
    del own[own.index("--num_groups") : own.index("--num_groups") + 2]
    run_train.main(own)
    folders = folders_of(tmp_path / "sweep")
    found = [result.folds[0].name for result in results_of(tmp_path / "sweep")]
    assert {*found} == {*names} and len(folders) == 4
    for folder, name in zip(folders, found, strict=True):
        assert set(pandas.read_parquet(folder / "predictions.parquet")["speaker"]) == {name}


def test_runs_of_other_settings_or_data_are_trained_anew(small_checkpoint, tmp_path, monkeypatch):
    corpus, trained, write_fold = write_corpus(tmp_path / "corpus"), [], runs.write_fold
    monkeypatch.setattr(runs, "write_fold", lambda *a: trained.append(a[0]) or write_fold(*a))
    own = flags(corpus, small_checkpoint, tmp_path / "sweep")
    axes = vary(layers=[[1]], pooling_type=["qkv"])
    for more, count in (
        (axes, 2),
        (axes, 0),
        (vary(layers=[[1]], pooling=[{"pooling_type": "qkv", "num_pooling_heads": 2}]), 2),
        (axes, 0),
    ):
        trained.clear()
        run_train.main([*own, *more])
        assert len(trained) == count, more
    table = (corpus / "metadata.csv").read_text()
    other = {",calm,": ",excited,", ",excited,": ",calm,"}
    (corpus / "metadata.csv").write_text(re.sub(",calm,|,excited,", lambda match: other[match[0]], table))
    trained.clear()
    run_train.main([*own, *axes])
    assert len(trained) == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (vary(layers=[[4]]), "layer_index=4 must be a whole number from 1 to 3"),
        (["--layers", "0"], "expected layers from 1"),
        (["--layers", "some"], "expected a list, each a whole number"),
        (["--layers", "1", "3"], r"""To train one model for each layer: --grid '{"layers": \[\[1\], \[3\]\]}'"""),
        ([*vary(layers=[[1]]), "--jobs", "0"], "at least 1"),
        (vary(pooling_type="mean"), "expected a JSON object such as"),
        (["--grid", "mean"], "expected a JSON object"),
        (vary(pooling_type=["max"]), "The axis 'pooling_type': --pooling_type max: expected one of"),
        (vary(labels=[["calm"], ["excited"]]), "The axis 'labels' sets labels"),
        (vary(pooling=["mean"]), "There is no setting 'pooling'; did you mean 'pooling_type'"),
        ([*vary(seed=[1]), "--seeds", "2"], "either --seeds or the axis seed"),
        (["--poolings", "mean"], "what varies stands under --grid"),
        (["--layer_index", "3"], "it is --layers 3 now"),
    ],
)
def test_impossible_grids_are_refused(corpus, small_checkpoint, tmp_path, more, said):
    with pytest.raises((RecipeError, ConfigError), match=said):
        run_train.main(flags(corpus, small_checkpoint, tmp_path / "sweep", *more))
    assert not (tmp_path / "sweep").exists()


def test_a_flag_takes_the_place_of_an_axis(tmp_path):
    recipe = tmp_path / "recipe.json"
    axes = {"encoder": ["a", "b"], "layers": "all", "head": [{"pooling_type": "mean"}, {}], "seed": [1, 2]}
    recipe.write_text(json.dumps({"grid": axes, "protocol": "loso"}))
    arguments = parse_arguments([str(recipe), "--encoder", "c", "--pooling_type", "qkv", "--seed", "3"])
    assert arguments.grid.grid == {"layers": "all"} and arguments.seeds == [3]
    assert (arguments.model.encoder, arguments.model.pooling_type) == ("c", "qkv")
    arguments = parse_arguments([str(recipe), "--seeds", "5", "6", *vary(layers=[[2]])])
    assert arguments.seeds == [5, 6] and arguments.grid.grid["layers"] == [[2]]


def test_a_recipe_of_the_first_version_is_translated_or_says_what_to_change(tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        json.dumps({"encoder": "a", "layer_indices": [2, 3], "layer_mixing": "concat", "ensemble": ["{}", "{}"]})
    )
    model = parse_arguments([str(recipe)]).model
    assert model.layers == [2, 3] and model.ensemble == [{}, {}]
    recipe.write_text(json.dumps({"encoders": ["a"], "layers": ["all"], "poolings": ["mean", "qkv"]}))
    with pytest.raises(RecipeError, match="no setting 'encoders': what varies stands under --grid") as error:
        parse_arguments([str(recipe)])
    assert "\n" not in str(error.value)


def test_a_sweep_draws_the_random_encoder_once_for_each_setting(corpus, small_checkpoint, tmp_path, monkeypatch):
    train, layer, built, built_in_runs = runs.train_run, encoder_whisper_ser.WhisperEncoderLayer, [], []

    def build(config):
        built.append(config)
        return layer(config)

    def counted(run, context):
        before = len(built)
        metrics = train(run, context)
        built_in_runs.append(len(built) - before)
        return metrics

    monkeypatch.setattr(encoder_whisper_ser, "WhisperEncoderLayer", build)
    monkeypatch.setattr(runs, "train_run", counted)
    models._draw_head.cache_clear()
    run_train.main(
        flags(corpus, small_checkpoint, tmp_path / "sweep", *vary(layers=[[3]], pooling_type=["mean", "qkv"]))
    )
    assert built_in_runs == [3, 0, 3, 0]  # two poolings on two folds, of three layers


def test_a_head_without_its_encoder_is_the_one_that_the_seed_gives_behind_an_encoder(small_checkpoint):
    config = WhisperForEmotionClassification.from_encoder(small_checkpoint, ["a", "b"], layer_index=2).config
    for seed in (3, 4, 3):
        set_seed(seed)
        whole = WhisperForEmotionClassification(config).state_dict()
        head = dict(head_model(config, seed).named_parameters())
        assert head and all(torch.equal(tensor, whole[name]) for name, tensor in head.items())


def test_a_setting_that_is_null_has_a_name_on_every_axis():
    own = {"layers": None, "pooling_type": None, "encoder": None, "frame_averaging": 5}
    assert point_name(own) == "layers null, pooling_type null, encoder null, frame_averaging 5"
