"""Variants of a recipe: the same folds and seeds for each, one table at the end, nothing trained twice."""

import json
from pathlib import Path

import pandas
import pytest
from conftest import ROOT

from whisper_ser.commands import train as run_train
from whisper_ser.errors import CheckpointError, RecipeError
from whisper_ser.evaluation.comparison import compare
from whisper_ser.training import runs
from whisper_ser.training.grid import points_of
from whisper_ser.training.recipe import parse_arguments

BASE = {
    "protocol": "speaker_groups",
    "num_groups": 2,
    "layers": [2],
    "num_train_epochs": 1,
    "input_dropout": 0.3,
    "seeds": [0, 1],
    "jobs": 1,
}
VARIANTS = {
    "ours": {},
    "no dropout": {"input_dropout": 0},
    "layer 3, noise": {"layers": [2, 3], "layer_mixing": "concat", "augment": ["gain"]},
}


def write_recipe(folder: Path, corpus: Path, checkpoint: Path, **settings) -> list[str]:
    places = {"data_dir": str(corpus), "encoder": str(checkpoint), "output_dir": str(folder / "run")}
    path = folder / "recipe.json"
    own = {**BASE, **places, "feature_dir": str(folder / "features"), "variants": VARIANTS, **settings}
    path.write_text(json.dumps(own))
    return [str(path)]


@pytest.fixture(scope="module")
def run(corpus, small_checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    run_train.main(write_recipe(folder, corpus, small_checkpoint))
    return folder / "run"


def test_each_variant_is_the_cross_validation_that_its_settings_give_alone(run, corpus, small_checkpoint, tmp_path):
    alone = {**BASE, "input_dropout": 0, "data_dir": str(corpus), "encoder": str(small_checkpoint)}
    (tmp_path / "recipe.json").write_text(json.dumps({**alone, "output_dir": str(tmp_path / "alone")}))
    run_train.main([str(tmp_path / "recipe.json"), "--feature_dir", str(run.parent / "features")])
    theirs = pandas.read_parquet(tmp_path / "alone" / "predictions.parquet")
    ours = pandas.read_parquet(run / "variants" / "no_dropout" / "predictions.parquet")
    pandas.testing.assert_frame_equal(ours, theirs)
    assert json.loads((run / "variants" / "no_dropout" / "recipe.json").read_text())["input_dropout"] == 0


def test_the_table_says_what_the_runs_say(run):
    table = pandas.read_csv(run / "variants.csv")
    assert list(table["variant"]) == [*VARIANTS] and set(table["seeds"]) == {2} and set(table["folds"]) == {2}
    folders = [run / "variants" / name for name in ("ours", "no_dropout", "layer_3__noise")]
    predictions = [pandas.read_parquet(folder / "predictions.parquet") for folder in folders]
    for row, folder, own in zip(table.to_dict("records"), folders, predictions, strict=True):
        metrics = json.loads((folder / "metrics.json").read_text())
        for key in ("wa", "ua", "macro_f1", "ece"):
            assert row[key] == pytest.approx(100 * metrics["test"][key], abs=1e-3)
        assert row["ua_low"] == pytest.approx(100 * metrics["intervals"]["ua"]["low"], abs=1e-3)
        paired = compare(predictions[0], own).metrics["ua"]
        for key, name in (
            ("difference", "ua_difference"),
            ("low", "ua_difference_low"),
            ("high", "ua_difference_high"),
        ):
            assert row[name] == pytest.approx(100 * getattr(paired, key), abs=1e-3)
    assert table.loc[0, "ua_difference"] == 0
    page = (run / "variants.md").read_text()
    assert page.count("\n| ") == 2 + len(VARIANTS) and "| no dropout | " in page


def test_an_interrupted_ablation_goes_on_and_takes_new_variants(
    run, corpus, small_checkpoint, tmp_path, monkeypatch, capsys
):
    done, write_fold = [], runs.write_fold

    def die_in_the_sixth(folder, *arguments):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(folder)
        return write_fold(folder, *arguments)

    own = write_recipe(tmp_path, corpus, small_checkpoint)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, "write_fold", die_in_the_sixth)
        run_train.main(own)
    assert not (tmp_path / "run" / "variants.csv").exists()
    again: list[Path] = []
    monkeypatch.setattr(runs, "write_fold", lambda *a: again.append(a[0]) or write_fold(*a))
    run_train.main(own)
    assert len(again) == 7 and not {*again} & {*done}
    columns = ["variant", "wa", "ua", "ece", "ua_difference", "p"]
    pandas.testing.assert_frame_equal(
        *(pandas.read_csv(folder / "variants.csv")[columns] for folder in (run, tmp_path / "run"))
    )
    again.clear()
    capsys.readouterr()
    own = write_recipe(tmp_path, corpus, small_checkpoint, variants={**VARIANTS, "mixup": {"mixup": 0.4}})
    run_train.main(own)
    assert len(again) == 4 and {folder.parts[-4] for folder in again} == {"mixup"}
    with pytest.raises(CheckpointError, match="mixup was 0.4, is now 0.5"):
        run_train.main(write_recipe(tmp_path, corpus, small_checkpoint, variants={"mixup": {"mixup": 0.5}}))


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({}, "expected a JSON object"),
        ({"a": 3}, "expected a JSON object"),
        ({"a": {"labels": ["x"]}}, "'a' sets labels"),
        ({"a": {"seed": 3}}, "'a' sets seed"),
        ({"a": {"seeds": [1]}}, "'a' sets seeds"),
        ({"a": {"mixupp": 1}}, "The variant 'a': There is no setting 'mixupp'"),
        ({"a": {"learning_rate": -1}}, "'a': --learning_rate -1"),
        ({"a": {}, "a b": {}, "a/b": {}}, "'a b' and 'a/b' would share a folder"),
        ({"a": {}, "b": {"selection": "validation"}}, "'b' needs validation speakers"),
    ],
)
def test_variants_that_cannot_work_are_refused_before_any_training(
    corpus, small_checkpoint, tmp_path, variants, message
):
    with pytest.raises(RecipeError, match=message):
        run_train.main(write_recipe(tmp_path, corpus, small_checkpoint, variants=variants))
    assert not (tmp_path / "run").exists()


def test_variants_and_axes_are_not_mixed(corpus, small_checkpoint, tmp_path):
    with pytest.raises(RecipeError, match="either --variants or --grid"):
        run_train.main([*write_recipe(tmp_path, corpus, small_checkpoint), "--grid", '{"layers": [[1]]}'])


def test_the_published_ablation_changes_one_ingredient_at_a_time():
    arguments = parse_arguments([str(ROOT / "recipes" / "ablation.json"), "--data_dir", "x"])
    settings = {point.name: point.arguments.to_dict() for point in points_of(arguments, lambda encoder: 6)}
    best = json.loads((ROOT / "recipes" / "best.json").read_text())
    # Of each ingredient, the settings that it consists of.
    layers, head = {"layers", "layer_mixing"}, {"ensemble", "pooling_type"}
    window, dropout = {"pad_to_seconds", "chunk_seconds"}, {"input_dropout", "classifier_dropout"}
    copies, standardisation = {"augment", "augment_copies"}, {"channel_standardisation"}
    groups = {
        "best on layer 3 alone": layers,
        "best without the statistics head": head,
        "best without the QKV head": {*head, "input_dropout"},
        "best without altered copies": copies,
        "best without dropout": {*dropout, "ensemble"},
        "best without standardisation": standardisation,
        "best in a window of 30 s": window,
        "paper on layer 3": layers,
        "paper on layers 2 to 4": layers,
        "paper with a statistics head": head,
        "paper with dropout": dropout,
        "paper with standardisation": standardisation,
        "paper on spoken frames": window,
    }

    def changed(one: dict, other: dict) -> set[str]:
        return {name for name in {*one, *other} - {"output_dir"} if one.get(name) != other.get(name)}

    assert {*settings} == {"best", "paper", *groups}
    assert changed(settings["best"], best) <= {"refit", "selection", "data_dir"}
    for name, group in groups.items():
        found = changed(settings[name], settings[name.split()[0]])
        assert found and found <= group, name
    for one in (layers, dropout - {"classifier_dropout"}, standardisation, window):
        assert any(one & changed(settings[name], settings["paper"]) for name in groups if name.startswith("paper"))
