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

from modeling_whisper_ser import WhisperForEmotionClassification, encoder_whisper_ser
from whisper_ser.commands import train as run_train
from whisper_ser.errors import CheckpointError, RecipeError
from whisper_ser.training import runs, sweep
from whisper_ser.training.models import head_model
from whisper_ser.training.runs import TrainingError
from whisper_ser.training.settings import parse_arguments


def flags(corpus: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    own = ["--data_dir", str(corpus), "--encoder", str(checkpoint), "--output_dir", str(output), "--jobs", "1"]
    protocol = ["--protocol", "speaker_groups", "--num_groups", "2", "--num_train_epochs", "2"]
    return [*own, *protocol, "--feature_dir", str(output.parent / "features"), *more]


def results_of(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def swept(corpus, small_checkpoint, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("sweeps") / "sweep"
    run_train.main(flags(corpus, small_checkpoint, output, "--layers", "1", "3", "--poolings", "mean", "qkv"))
    return output


def test_every_cell_is_there_once(swept):
    results = results_of(swept)
    found = [(cell["layer"], cell["pooling"], cell["seed"], cell["fold"]) for cell in results["cells"]]
    assert found == [(layer, pooling, 42, fold) for layer in (1, 3) for pooling in ("mean", "qkv") for fold in "12"]
    assert {cell["num_layers"] for cell in results["cells"]} == {3}
    for cell in results["cells"]:
        assert len(pandas.read_parquet(swept / cell["predictions"])) == cell["test"]["utterances"] == 18
        assert [epoch["epoch"] for epoch in cell["history"]] == [1, 2]
        assert cell["history"][-1]["test"]["ua"] == cell["test"]["ua"] and cell["history"][0]["loss"] > 0


@pytest.mark.parametrize("layer", ["1", "3"])
def test_a_cell_is_what_the_setting_gives_alone(swept, corpus, small_checkpoint, tmp_path, layer):
    alone = tmp_path / "alone"
    run_train.main(flags(corpus, small_checkpoint, alone, "--layer_index", layer, "--pooling_type", "mean"))
    expected = pandas.read_parquet(alone / "predictions.parquet")
    cells_of = [c for c in results_of(swept)["cells"] if (c["layer"], c["pooling"]) == (int(layer), "mean")]
    got = pandas.concat([pandas.read_parquet(swept / cell["predictions"]) for cell in cells_of])
    pandas.testing.assert_frame_equal(
        got.reset_index(drop=True), expected.drop(columns=["fold", "seed"]), rtol=1e-4, atol=1e-5
    )


def test_an_interrupted_sweep_goes_on_with_the_cells_that_are_missing(
    swept, corpus, small_checkpoint, tmp_path, monkeypatch
):
    output, done, write_fold = tmp_path / "sweep", [], runs.write_fold

    def die_in_the_sixth(folder, *arguments):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(folder)
        return write_fold(folder, *arguments)

    own = flags(corpus, small_checkpoint, output, "--layers", "1", "3", "--poolings", "mean", "qkv")
    monkeypatch.setattr(runs, "write_fold", die_in_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        run_train.main(own)
    assert not (output / "results.json").exists()
    with pytest.raises(CheckpointError, match="num_train_epochs was 2"):
        run_train.main([*own, "--num_train_epochs", "3"])
    again: list[Path] = []
    monkeypatch.setattr(runs, "write_fold", lambda *a: again.append(a[0]) or write_fold(*a))
    run_train.main(own)
    assert len(again) == 3 and not {*again} & {*done}
    for ours, theirs in zip(results_of(output)["cells"], results_of(swept)["cells"], strict=True):
        assert ours["test"] == theirs["test"] and ours["history"] == theirs["history"]
    again.clear()
    run_train.main([*own, "--poolings", "mean", "qkv", "attentive"])
    assert {folder.parts[-3] for folder in again} == {"attentive"} and len(again) == 4
    assert len(results_of(output)["cells"]) == 12


def test_cells_side_by_side_give_what_they_give_one_after_the_other(swept, corpus, small_checkpoint, tmp_path):
    output = tmp_path / "sweep"
    more = ["--layers", "1", "3", "--poolings", "mean", "qkv", "--jobs", "2"]
    run_train.main(flags(corpus, small_checkpoint, output, *more))
    for ours, theirs in zip(results_of(output)["cells"], results_of(swept)["cells"], strict=True):
        assert ours["test"]["confusion_matrix"] == theirs["test"]["confusion_matrix"]
        assert ours["history"][-1]["loss"] == pytest.approx(theirs["history"][-1]["loss"], rel=1e-3)


def die(cell):
    os._exit(1)


def test_a_training_process_that_dies_is_told_in_words(corpus, small_checkpoint, tmp_path, monkeypatch):
    own = flags(corpus, small_checkpoint, tmp_path / "sweep", "--poolings", "mean", "--jobs", "2")
    monkeypatch.setattr(runs, "_run_in_process", die)
    with pytest.raises(TrainingError, match="training processes died.*start the same command again"):
        run_train.main(own)


def test_a_folder_holds_one_kind_of_run(corpus, small_checkpoint, tmp_path):
    for name, kind in (("model", "a trained model"), ("folds", "a cross-validation")):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(RecipeError, match=rf"holds {kind} \({name}/\): choose another"):
            run_train.main(flags(corpus, small_checkpoint, tmp_path / name, "--poolings", "mean"))


def test_a_pooling_may_have_settings_of_its_own(corpus, small_checkpoint, tmp_path):
    output, own = tmp_path / "sweep", '{"qkv": {"layer_norm_after_pooling": true}}'
    arguments = parse_arguments(
        flags(corpus, small_checkpoint, output, "--poolings", "mean", "qkv", "--by_pooling", own)
    )
    folds = run_train.plan(run_train.load(arguments.data), arguments)
    records = run_train.index_audio([path for part in folds[0].split for path in part["path"]], progress=False)
    variants = sweep._variants(folds, records, arguments)
    norms = {(variant.pooling, variant.run.config.layer_norm_after_pooling) for variant in variants}
    assert norms == {("mean", False), ("qkv", True)}


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes" / "paper").glob("*.json")))
def test_the_papers_recipes_are_section_4_2(recipe):
    arguments = parse_arguments([str(ROOT / "recipes" / "paper" / recipe), "--data_dir", "x"])
    heads = {"shemo": 6, "iemocap": 12}[arguments.data.corpus]
    assert (arguments.model.num_pooling_heads, arguments.model.pooling_head_dim) == (heads, 4)
    training = arguments.training
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (30, 16)
    assert (training.learning_rate, training.lr_scheduler_type, training.warmup_steps) == (1e-3, "cosine", 0.1)
    assert arguments.sweep.layers == ["all"] and arguments.sweep.poolings == ["mean", "attentive", "qkv"]
    like_for_like = "honest" not in recipe
    assert (training.selection == "test_best") == like_for_like
    assert arguments.model.pad_to_seconds == (30 if like_for_like else None)
    as_released = arguments.sweep.settings_of("qkv").get("score_activation") == "tanh"
    assert as_released == ("code" in recipe)


def test_folds_whose_names_a_file_system_cannot_tell_apart_are_all_there(small_checkpoint, tmp_path):
    names = ["\u5f20", "\u674e", "J\u00fcrgen", "J\u00f6rgen"]
    corpus = write_corpus(tmp_path / "corpus", speakers=4, each=1)
    table = (corpus / "metadata.csv").read_text()
    for number, name in enumerate(names):
        table = re.sub(rf",{number:02d}$", f",{name}", table, flags=re.M)
    (corpus / "metadata.csv").write_text(table, encoding="utf-8")
    own = flags(corpus, small_checkpoint, tmp_path / "sweep", "--poolings", "mean", "--num_train_epochs", "1")
    own[own.index("speaker_groups")] = "loso"
    del own[own.index("--num_groups") : own.index("--num_groups") + 2]
    run_train.main(own)
    found = results_of(tmp_path / "sweep")["cells"]
    assert {cell["fold"] for cell in found} == {*names} and len({cell["predictions"] for cell in found}) == 4
    for cell in found:
        assert set(pandas.read_parquet(tmp_path / "sweep" / cell["predictions"])["speaker"]) == {cell["fold"]}


def test_cells_of_other_settings_or_data_are_trained_anew(small_checkpoint, tmp_path, monkeypatch):
    corpus, trained, write_fold = write_corpus(tmp_path / "corpus"), [], runs.write_fold
    monkeypatch.setattr(runs, "write_fold", lambda *a: trained.append(a[0]) or write_fold(*a))
    own = flags(corpus, small_checkpoint, tmp_path / "sweep", "--layers", "1", "--poolings", "qkv")
    for more, count in (
        ([], 2),
        ([], 0),
        (["--by_pooling", '{"qkv": {"num_pooling_heads": 2}}'], 2),
        ([], 2),
    ):
        trained.clear()
        run_train.main([*own, *more])
        assert len(trained) == count, more
    table = (corpus / "metadata.csv").read_text()
    other = {",calm,": ",excited,", ",excited,": ",calm,"}
    (corpus / "metadata.csv").write_text(re.sub(",calm,|,excited,", lambda match: other[match[0]], table))
    trained.clear()
    run_train.main(own)
    assert len(trained) == 2


def test_impossible_sweeps_are_refused(corpus, small_checkpoint, tmp_path):
    for more, said in (
        (["--layers", "4"], "small-whisper.* has 3 encoder layers"),
        (["--layers", "0"], "expected layers from 1"),
        (["--layers", "some"], "or all"),
        (["--layers", "1", "--layer_index", "2"], "either --layer_index or --layers"),
        (["--poolings", "mean", "--unfreeze_last_n", "1"], "frozen encoder"),
        (["--layers", "1", "--jobs", "0"], "at least 1"),
        (["--poolings", "mean", "--by_pooling", '{"qkv": {}}'], "qkv, which is not in --poolings"),
        (["--poolings", "mean", "--by_pooling", '{"mean": {"seed": 1}}'], "sets seed; it may set d_model"),
        (["--poolings", "mean", "--by_pooling", "mean"], "not JSON"),
    ):
        with pytest.raises(RecipeError, match=said):
            run_train.main(flags(corpus, small_checkpoint, tmp_path / "sweep", *more))


def test_a_recipes_encoders_give_way_to_one_that_is_named(corpus, small_checkpoint, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"encoders": ["openai/whisper-small"], "layers": ["2"], "poolings": ["mean"]}))
    run_train.main([str(recipe), *flags(corpus, small_checkpoint, tmp_path / "sweep")])
    assert {cell["layer"] for cell in results_of(tmp_path / "sweep")["cells"]} == {2}


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
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "sweep", "--layers", "3", "--poolings", "mean", "qkv"))
    assert built_in_runs == [3, 0, 3, 0]  # two poolings on two folds, of three layers


def test_a_head_without_its_encoder_is_the_one_that_the_seed_gives_behind_an_encoder(small_checkpoint):
    config = WhisperForEmotionClassification.from_encoder(small_checkpoint, ["a", "b"], layer_index=2).config
    for seed in (3, 4, 3):
        set_seed(seed)
        whole = WhisperForEmotionClassification(config).state_dict()
        head = dict(head_model(config, seed).named_parameters())
        assert head and all(torch.equal(tensor, whole[name]) for name, tensor in head.items())
