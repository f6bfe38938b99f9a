"""Settings that contradict each other, or that another setting leaves without effect: refused, not ignored."""

import json
import os
from collections.abc import Iterable
from typing import Any

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.data.splits import GROUP_PROTOCOLS
from whisper_ser.errors import RecipeError
from whisper_ser.training.grid import check_grid, check_own, combinations
from whisper_ser.training.settings import Arguments, DataArguments, ModelArguments, all_settings, given, metadata


def check_settings(arguments: Arguments) -> None:
    """Raises `RecipeError` for settings that contradict each other, or that others leave without effect."""
    check_grid(arguments)
    refuse_ignored(arguments)
    check_values(arguments)


def check_values(arguments: Arguments) -> None:
    """Raises `RecipeError` for settings that contradict each other."""
    model, data, training, _ = arguments
    _check_layers(model)
    for number, member in enumerate(model.ensemble or [], start=1):
        known = {name: value for name, value in member.items() if name in all_settings()}  # others, the config checks
        check_own(f"Member {number} of the ensemble", known)
    new = model.encoder or any("encoder" in own for own in combinations(arguments))
    refit, asked = training.refit, training.selection
    by_epoch = (training.eval_strategy, training.save_strategy) == ("epoch", "epoch")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    contradictions = {
        "Say what to train: --encoder for a new model, or --model_name_or_path to train one on.": (
            model.model_name_or_path is None and not new
        ),
        "Use --label_smoothing, kept with the model, instead of label_smoothing_factor.": (
            training.label_smoothing_factor
        ),
        "--num_train_epochs 0 trains nothing.": training.num_train_epochs == 0 and training.max_steps <= 0,
        "--load_best_model_at_end contradicts selection=last: use --selection validation.": (
            training.load_best_model_at_end and asked == "last"
        ),
        "--refit trains again without validation speakers to choose an epoch by: leave selection at last.": (
            refit and asked != "last"
        ),
        "--refit trains twice, and no checkpoint is of both: leave resume_from_checkpoint out. The same command goes "
        "on by itself where it was interrupted.": refit and training.resume_from_checkpoint,
        "--refit fits a temperature on validation speakers first: raise validation_fraction.": (
            refit and data.validation_fraction == 0 and not data.validation_speakers
        ),
        "Half-precision evaluation would save the model in half precision: leave it off.": (
            training.fp16_full_eval or training.bf16_full_eval
        ),
        "--dataloader_drop_last would leave test utterances out: leave it off.": training.dataloader_drop_last,
        f"{started} processes were started, but {training.world_size} would train: on a machine without accelerator "
        "leave --use_cpu at true.": started != training.world_size,
        "--push_to_hub would publish checkpoints: publish the folder model/ when the run has ended.": (
            training.push_to_hub
        ),
        f"selection={asked} compares epochs: leave eval_strategy and save_strategy at epoch.": (
            asked != "last" and not by_epoch
        ),
    }
    for told, is_so in contradictions.items():
        if is_so:
            raise RecipeError(told)


def _check_layers(model: ModelArguments) -> None:
    layers = model.layers or []
    if any(layer < 1 for layer in layers) or layers != sorted({*layers}):
        raise RecipeError(f"--layers {' '.join(map(str, layers))}: expected layers from 1, ascending.")
    if len(layers) > 1 and model.layer_mixing in (None, "none") and not (model.ensemble or model.model_name_or_path):
        grid = {"layers": [[layer] for layer in layers]}
        raise RecipeError(
            f"One model reads the layers {', '.join(map(str, layers))} with --layer_mixing concat, weighted or "
            f"attention. To train one model for each layer: --grid '{json.dumps(grid)}'."
        )


def refuse_ignored(arguments: Arguments) -> None:
    """Raises `RecipeError` for settings that the others leave without effect."""
    model, data, training, grid = arguments
    refuse_ignored_data(data)
    several = data.protocol != "split" or grid.varies
    _refuse(
        [model, training, grid],
        ("encoder", model.model_name_or_path is None, "--model_name_or_path has an encoder of its own"),
        (
            "augment_copies",
            training.augment,
            "only with --augment, which names the augmentations, are there views",
        ),
        ("jobs", several or grid.jobs == 1, "only a cross-validation or a grid has several trainings"),
        (
            "resume_from_checkpoint save_strategy save_steps save_total_limit",
            not several,
            "a cross-validation or a grid keeps finished trainings and no checkpoints",
        ),
        ("metric_for_best_model", training.load_best_model_at_end, "--selection names the metric"),
        ("greater_is_better", training.load_best_model_at_end, "--selection names the metric"),
        ("hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision", False, "publish with push"),
        ("remove_unused_columns label_names", False, "the Trainer is given the inputs that the model reads"),
        ("do_train do_predict", False, "every run trains and tests"),
    )
    if model.model_name_or_path is None:
        _refuse_unread_fields(arguments)


def refuse_ignored_data(data: DataArguments) -> None:
    """Raises `RecipeError` for settings of the data that the others leave without effect."""
    protocol, published = data.protocol, data.corpus in CORPORA
    _refuse(
        [data],
        (
            "table path_column label_column speaker_column fold_column split_column label_aliases drop_other_labels",
            data.corpus == "own",
            f"the corpus {data.corpus} is not read from a table of your own",
        ),
        ("drop_other_labels", data.labels, "--labels names the labels that are kept"),
        ("manifest", data.corpus == "emobox", "only the corpus emobox is read from a manifest"),
        ("classes subset", published, "only a published corpus has label sets and subsets"),
        ("allow_incomplete", published or data.corpus == "emobox", "only a published corpus is known to be complete"),
        ("num_groups", protocol in ("auto", *GROUP_PROTOCOLS), f"--protocol {protocol} has no number of groups"),
        ("fold_column", protocol in ("auto", "fold", "fixed"), f"--protocol {protocol} reads no folds"),
        ("split_column", protocol in ("auto", "group", "fixed"), f"--protocol {protocol} reads no parts"),
        ("test_speakers validation_speakers", protocol == "split", f"--protocol {protocol} decides who tests"),
        ("test_fraction", protocol == "split", f"--protocol {protocol} decides who tests"),
        ("test_fraction", not data.test_speakers, "--test_speakers names the speakers that it would draw"),
        ("validation_fraction", not data.validation_speakers, "--validation_speakers names those that it would draw"),
    )


def _refuse(groups: Iterable[Any], *rules: tuple[str, Any, str]) -> None:
    """Raises for the first rule of settings that are given and not used.

    Args:
        rules: names, separated by spaces, whether these settings are used, and why not.
    """
    known = {name for group in groups for name in given(group)}
    for names, used, reason in rules:
        flags = [f"--{name}" for name in names.split() if name in known]
        if flags and not used:
            raise RecipeError(f"{' and '.join(flags)} would be ignored: {reason}.")


def _refuse_unread_fields(arguments: Arguments) -> None:
    """Raises for fields of the attention poolings that no model reads, or not the one that sets them."""
    attention = [name for name, one in all_settings().items() if metadata(one).get("attention")]
    set_by: list[tuple[dict[str, Any], list[str]]] = []  # and the poolings of the heads that it holds for
    everywhere: list[str] = []
    for own in combinations(arguments):
        settings = {**vars(arguments.model), **own}
        usual, members = settings["pooling_type"] or WhisperSerConfig.pooling_type, settings["ensemble"] or [{}]
        poolings = [member.get("pooling_type", usual) for member in members]
        set_by += [(own, poolings), *((member, [pooling]) for member, pooling in zip(members, poolings, strict=True))]
        everywhere += poolings
    for settings, poolings in [*set_by, (vars(arguments.model), everywhere)]:
        unread = [name for name in attention if settings.get(name) not in (None, False, 0, "none")]
        if unread and not {"attentive", "qkv"} & {*poolings}:
            told = ", ".join(dict.fromkeys(poolings))
            raise RecipeError(f"{' and '.join(unread)} would be ignored: no pooling of {told} reads it.")
