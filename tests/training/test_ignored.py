"""A setting that another one leaves without effect is refused in one line; every recipe still parses."""

import json

import pytest
from conftest import ROOT

from whisper_ser.data.corpora.dataset import Utterance, build_dataset
from whisper_ser.errors import RecipeError
from whisper_ser.training.data import plan_folds
from whisper_ser.training.grid import combinations
from whisper_ser.training.recipe import parse_arguments
from whisper_ser.training.settings import DataArguments

OWN = ["--encoder", "x", "--data_dir", "x"]
LOSO = ["--protocol", "loso"]

IGNORED = [
    (["--corpus", "ravdess", "--table", "x.csv"], "--table"),
    (["--corpus", "ravdess", "--path_column", "a", "--fold_column", "b"], "--path_column and --fold_column"),
    (["--corpus", "emobox", "--manifest", "m", "--label_column", "a"], "--label_column"),
    (["--corpus", "emobox", "--manifest", "m", "--label_aliases", "a=b"], "--label_aliases"),
    (["--corpus", "demo", "--drop_other_labels", "--labels", "a", "b"], "--drop_other_labels"),
    (["--drop_other_labels"], "--drop_other_labels"),
    (["--manifest", "m"], "--manifest"),
    (["--corpus", "iemocap", "--manifest", "m"], "--manifest"),
    (["--classes", "4"], "--classes"),
    (["--corpus", "emobox", "--manifest", "m", "--subset", "all"], "--subset"),
    (["--corpus", "demo", "--allow_incomplete"], "--allow_incomplete"),
    (["--num_groups", "3"], "--num_groups"),
    ([*LOSO, "--num_groups", "3"], "--num_groups"),
    (["--fold_column", "f"], "--fold_column"),
    (["--protocol", "group", "--fold_column", "f"], "--fold_column"),
    (["--protocol", "stratified", "--split_column", "s"], "--split_column"),
    ([*LOSO, "--test_speakers", "a"], "--test_speakers"),
    ([*LOSO, "--validation_speakers", "a"], "--validation_speakers"),
    ([*LOSO, "--test_fraction", "0.3"], "--test_fraction"),
    (["--test_speakers", "a", "--test_fraction", "0.3"], "--test_fraction"),
    (["--validation_speakers", "a", "--validation_fraction", "0.3"], "--validation_fraction"),
    (["--model_name_or_path", "y"], "--encoder"),
    (["--augment_copies", "2"], "--augment_copies"),
    (["--jobs", "2"], "--jobs"),
    ([*LOSO, "--resume_from_checkpoint", "c"], "--resume_from_checkpoint"),
    (["--grid", '{"layers": [[2]]}', "--save_total_limit", "3"], "--save_total_limit"),
    (["--metric_for_best_model", "wa"], "--metric_for_best_model"),
    (["--hub_model_id", "a/b"], "--hub_model_id"),
    (["--do_predict", "true"], "--do_predict"),
    (["--pooling_type", "mean", "--num_pooling_heads", "3"], "num_pooling_heads"),
    (["--grid", '{"pooling_type": ["mean", "statistics"]}', "--pooling_dropout", "0.2"], "pooling_dropout"),
    (["--grid", '{"head": [{"pooling_type": "mean", "scale_scores": true}, {}]}'], "scale_scores"),
    (["--ensemble", '{"pooling_type": "mean", "pooling_head_dim": 8}', "{}"], "pooling_head_dim"),
]
USED = [
    ["--corpus", "iemocap", "--classes", "4", "--subset", "all", "--allow_incomplete"],
    ["--protocol", "auto", "--num_groups", "3", "--fold_column", "f", "--split_column", "s"],
    ["--labels", "a", "b", "--drop_other_labels", "--label_aliases", "c=a"],
    ["--test_fraction", "0.3", "--validation_fraction", "0.3"],
    ["--test_speakers", "a", "--validation_fraction", "0.3"],
    ["--resume_from_checkpoint", "c", "--save_total_limit", "3"],
    [*LOSO, "--jobs", "2"],
    ["--grid", '{"pooling_type": ["mean", "qkv"]}', "--num_pooling_heads", "3"],
    ["--ensemble", '{"pooling_type": "statistics"}', "{}", "--pooling_head_dim", "8"],
    # Nothing is dropped where nothing could be.
    ["--pooling_type", "mean", "--pooling_dropout", "0", "--score_activation", "none"],
]


@pytest.mark.parametrize(("options", "flags"), IGNORED, ids=str)
def test_a_setting_without_effect_is_refused_in_one_line(options, flags):
    with pytest.raises(RecipeError, match=f"^{flags} would be ignored: ") as error:
        parse_arguments([*OWN, *options])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", USED, ids=str)
def test_a_setting_with_an_effect_is_taken(options):
    parse_arguments([*OWN, *options])


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.json")), ids=lambda path: path.stem)
def test_every_recipe_parses(recipe):
    arguments = parse_arguments([str(recipe), "--data_dir", "x"])
    assert len(combinations(arguments)) >= len(json.loads(recipe.read_text()).get("variants", {}))


def test_a_saved_model_takes_the_place_of_a_recipes_encoder():
    model = parse_arguments(["recipes/emodb4.json", "--data_dir", "x", "--model_name_or_path", "y"]).model
    assert (model.encoder, model.model_name_or_path) == (None, "y")


@pytest.mark.parametrize(
    ("columns", "settings", "flag"),
    [
        ({}, {"num_groups": 3}, "num_groups"),
        ({}, {"fold_column": "f"}, "fold_column"),
        ({"fold": "12"}, {"split_column": "s"}, "split_column"),
        ({"group": ("train", "validation", "test")}, {"validation_fraction": 0.5}, "validation_fraction"),
    ],
)
def test_what_the_protocol_chosen_by_auto_ignores_is_refused(columns, settings, flag):
    rows = [
        Utterance(f"{n}.wav", "ab"[n % 2], f"s{n // 2}", **{c: v[n // 2 % len(v)] for c, v in columns.items()})
        for n in range(12)
    ]
    corpus = build_dataset(rows, ["a", "b"], "rows")
    with pytest.raises(RecipeError, match=f"--{flag} would be ignored: "):
        plan_folds(corpus, DataArguments(protocol="auto", **settings), seed=0)
    plan_folds(corpus, DataArguments(protocol="auto"), seed=0, validation_fraction=0.2)
