"""A setting is declared in one place: flags, recipes, identity, grids and checks of saved models follow from it."""

import json
import math
from dataclasses import dataclass

import pytest

from whisper_ser.commands import describe
from whisper_ser.errors import RecipeError
from whisper_ser.training import settings
from whisper_ser.training.grid import check_grid
from whisper_ser.training.identity import dependencies
from whisper_ser.training.models import build_model
from whisper_ser.training.recipe import parse_arguments, portable
from whisper_ser.training.settings import DataArguments, ModelArguments, all_settings, setting


@dataclass
class MoreModelArguments(ModelArguments):
    """The settings of a model with one more, which a config of a model has already, and one of the machine."""

    pooling_queries: list[str] | None = setting("head", "What the pooling asks for.", fixed=True)
    sharpness: float | None = setting("head", "Of the attention.", least=0, most=2, attention=True)
    colour: str | None = setting("machine", "Of the progress bar.")


@dataclass
class MoreDataArguments(DataArguments):
    """The settings of the data with two more."""

    accent: str | None = setting("data", "Accents that are kept.")
    secret: str | None = setting("data", "Not of interest before a training.", describe=False)


@pytest.fixture
def declared(monkeypatch):
    monkeypatch.setattr(settings, "GROUPS", [MoreModelArguments, MoreDataArguments, *settings.GROUPS[2:]])
    monkeypatch.setattr(describe, "DataArguments", MoreDataArguments)


def test_a_new_setting_is_a_flag_with_help_and_part_of_recipes(declared, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    assert "What the pooling asks for." in " ".join(capsys.readouterr().out.split())
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"encoder": "x", "pooling_queries": ["mean"], "colour": "red"}))
    told = parse_arguments([str(recipe)]).to_dict()
    assert told["pooling_queries"] == ["mean"] and told["colour"] == "red"
    assert "colour" not in portable(told) and "pooling_queries" in portable(told)
    assert parse_arguments([str(recipe), "--pooling_queries", "learnt"]).model.pooling_queries == ["learnt"]


def test_a_new_setting_is_part_of_the_identity_unless_it_belongs_to_the_machine(declared, small_checkpoint):
    def identity(**own):
        return dependencies(settings.build({"encoder": str(small_checkpoint), **own}))

    assert identity() == identity(colour="red") != identity(pooling_queries=["mean"])


def test_a_new_setting_may_vary_unless_it_belongs_to_the_machine(declared):
    base = {"encoder": "x", "protocol": "loso"}
    check_grid(settings.build({**base, "grid": {"pooling_queries": [["mean"], ["max"]]}}))
    check_grid(settings.build({**base, "variants": {"a": {"pooling_queries": ["mean"]}}}))
    with pytest.raises(RecipeError, match="sets colour"):
        check_grid(settings.build({**base, "grid": {"colour": ["red", "blue"]}}))


def test_a_new_setting_has_one_range_for_flags_recipes_and_variants(declared, tmp_path):
    recipe = tmp_path / "recipe.json"
    said = "--sharpness {}: expected a number from 0 to 2"
    for value in (2.5, -1, math.nan):
        recipe.write_text(json.dumps({"encoder": "x", "sharpness": value}))
        with pytest.raises(RecipeError, match=f"^{said.format(float(value))}. .The recipe is {recipe}"):
            parse_arguments([str(recipe)])
        with pytest.raises(RecipeError, match=f"^{said.format(float(value))}"):
            parse_arguments(["--encoder", "x", "--sharpness", str(value)])
    recipe.write_text(json.dumps({"encoder": "x", "protocol": "loso", "variants": {"a": {"sharpness": 3}}}))
    with pytest.raises(RecipeError, match="^The variant 'a': " + said.format(3.0)):
        parse_arguments([str(recipe)])
    assert parse_arguments(["--encoder", "x", "--sharpness", "2"]).model.sharpness == 2


def test_a_new_setting_of_the_attention_poolings_is_refused_where_none_reads_it(declared):
    parse_arguments(["--encoder", "x", "--sharpness", "1", "--pooling_type", "qkv"])
    with pytest.raises(RecipeError, match="sharpness would be ignored: no pooling of mean reads it"):
        parse_arguments(["--encoder", "x", "--sharpness", "1", "--pooling_type", "mean"])


def test_a_new_setting_of_the_data_is_a_flag_of_describe_unless_it_says_otherwise(declared, capsys):
    with pytest.raises(SystemExit):
        describe.main(["--help"])
    told = capsys.readouterr().out
    assert "--accent" in told and "--secret" not in told and "--num_groups" in told and "--license" not in told


def test_a_new_setting_that_a_saved_model_has_fixed_is_compared(declared, small_checkpoint, tmp_path):
    new = MoreModelArguments(encoder=str(small_checkpoint), layers=[1])
    model, extractor = build_model(new, ["a", "b"])
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    build_model(MoreModelArguments(model_name_or_path=str(tmp_path), pooling_queries=["mean"]), ["a", "b"])
    with pytest.raises(RecipeError, match=r"pooling_queries is \['mean'\], not \['max'\]"):
        build_model(MoreModelArguments(model_name_or_path=str(tmp_path), pooling_queries=["max"]), ["a", "b"])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("layers", [2.5], r"--layers \[2.5\]: expected a list, each a whole number"),
        ("layers", 3, "--layers 3: expected a list"),
        ("refit", "true", "--refit true: expected true or false"),
        ("refit", 1, "--refit 1: expected true or false"),
        ("learning_rate", "1e-3", "--learning_rate 1e-3: expected a number"),
        ("seed", True, "--seed True: expected a whole number"),
        ("seed", -1, "--seed -1: expected a number from 0 to"),
        ("jobs", 0, "--jobs 0: expected at least 1"),
        ("num_train_epochs", 10**400, "--num_train_epochs 1000.*: expected a number"),
        ("ensemble", ["{}"], "expected a list, each a JSON object"),
        ("augment", ["echo"], "--augment echo: expected one of"),
        ("pooling_typ", "qkv", "no setting 'pooling_typ'; did you mean 'pooling_type'"),
        ("poolings", ["qkv"], "what varies stands under --grid"),
    ],
)
def test_a_value_of_another_type_is_told_by_setting_value_and_what_was_expected(name, value, said):
    with pytest.raises(RecipeError, match=said):
        settings.build({name: value})


def test_a_recipe_and_flags_give_the_same_values(tmp_path):
    values = {
        "encoder": "x",
        "layers": [1, 2],
        "layer_mixing": "concat",
        "ensemble": [{}, {"pooling_type": "mean"}],
        "learning_rate": 1e-4,
        "warmup_steps": 3,
        "refit": True,
        "labels": ["1", "true"],
        "grid": {"input_dropout": [0.1, 0.2]},
        "protocol": "loso",
    }
    flags = []
    for name, value in values.items():
        many = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(one if isinstance(one, str) else json.dumps(one) for one in many)]
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    told = parse_arguments(flags).to_dict()
    assert told == parse_arguments([str(tmp_path / "recipe.json")]).to_dict()
    assert {name: told[name] for name in values} == values


def test_a_member_of_an_ensemble_is_checked_like_any_setting(tmp_path):
    recipe = tmp_path / "recipe.json"
    for member, said in (
        ({"pooling_type": "max"}, "--pooling_type max: expected one of"),
        ({"input_dropout": "0.5"}, "--input_dropout 0.5: expected a number"),
        ({"labels": ["a"]}, "sets labels"),
    ):
        recipe.write_text(json.dumps({"encoder": "x", "ensemble": [{}, member]}))
        with pytest.raises(RecipeError, match=f"^Member 2 of the ensemble.*{said}.*{recipe}"):
            parse_arguments([str(recipe)])


def test_a_recipe_extends_another_and_flags_stand_over_both(tmp_path):
    (tmp_path / "base.json").write_text(
        json.dumps({"encoder": "x", "layers": [2], "mixup": 0.1, "grid": {"pooling_type": ["mean", "qkv"]}})
    )
    (tmp_path / "sub").mkdir()
    recipe = tmp_path / "sub" / "recipe.json"
    own = {"extends": "../base.json", "mixup": None, "pooling_type": "qkv", "input_dropout": 0.2}
    recipe.write_text(json.dumps(own))
    model = parse_arguments([str(recipe), "--input_dropout", "0.4"]).model
    assert (model.encoder, model.layers, model.mixup, model.input_dropout) == ("x", [2], None, 0.4)
    assert parse_arguments([str(recipe)]).grid.grid is None
    recipe.write_text(json.dumps({"extends": "best.json"}))  # one that ships
    assert parse_arguments([str(recipe)]).model.layers == [2, 3, 4]
    (tmp_path / "base.json").write_text(json.dumps({"extends": "sub/recipe.json"}))
    recipe.write_text(json.dumps({"extends": "../base.json"}))
    with pytest.raises(RecipeError, match="extends"):
        parse_arguments([str(recipe)])


def test_a_variant_may_stand_on_another_recipe(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"encoder": "y", "input_dropout": 0.2, "labels": ["a", "b"]}))
    variants = {"ours": {}, "other": {"extends": "other.json", "num_pooling_heads": 3}}
    content = {"encoder": "x", "mixup": 0.3, "learning_rate": 0.1, "protocol": "loso", "variants": variants}
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    grid = parse_arguments([str(tmp_path / "recipe.json")]).grid
    assert grid.variants["other"] == {
        "mixup": None,
        "learning_rate": None,
        "input_dropout": 0.2,
        "num_pooling_heads": 3,
    }
    grid = parse_arguments([str(tmp_path / "recipe.json"), "--mixup", "0.5"]).grid
    assert "mixup" not in grid.variants["other"]


def test_every_setting_belongs_to_something_known():
    known = {"encoder", "layers", "head", "training", "seed", "data", "folds", "machine", "grid"}
    assert {settings.metadata(one)["belongs"] for one in all_settings().values()} == known
