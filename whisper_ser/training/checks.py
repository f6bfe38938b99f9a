"""Settings that contradict each other, or that another setting leaves without effect: refused, not ignored."""

import json
import os
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.data.splits import GROUP_PROTOCOLS
from whisper_ser.errors import RecipeError
from whisper_ser.training.grid import check_grid, combinations
from whisper_ser.training.settings import Arguments, DataArguments, ModelArguments


def check_settings(arguments: Arguments) -> None:
    """Raises `RecipeError` for settings that contradict each other, or that others leave without effect."""
    check_grid(arguments)
    refuse_ignored(arguments)
    check_values(arguments)


def check_values(arguments: Arguments) -> None:
    """Raises `RecipeError` for settings out of range, or that contradict each other."""
    model, data, training, grid = arguments
    _check_ranges(arguments)
    _check_layers(model)
    if model.model_name_or_path is None and model.encoder is None and not _varies(arguments, "encoder"):
        raise RecipeError("Say what to train: --encoder for a new model, or --model_name_or_path to train one on.")
    if training.label_smoothing_factor:
        raise RecipeError("Use --label_smoothing, kept with the model, instead of label_smoothing_factor.")
    if training.load_best_model_at_end and training.selection == "last":
        raise RecipeError("--load_best_model_at_end contradicts selection=last: use --selection validation.")
    if training.refit and training.selection != "last":
        raise RecipeError(
            "--refit trains anew without validation speakers to choose an epoch by: leave selection at last."
        )
    if training.refit and training.resume_from_checkpoint:
        raise RecipeError(
            "--refit trains twice, and no checkpoint is of both: leave resume_from_checkpoint out. The same command "
            "goes on by itself where it was interrupted."
        )
    if training.refit and data.validation_fraction == 0 and not data.validation_speakers:
        raise RecipeError("--refit fits a temperature on validation speakers first: raise validation_fraction.")
    if training.fp16_full_eval or training.bf16_full_eval:
        raise RecipeError("Half-precision evaluation would save the model in half precision: leave it off.")
    if training.dataloader_drop_last:
        raise RecipeError("--dataloader_drop_last would leave test utterances out: leave it off.")
    if int(os.environ.get("WORLD_SIZE", "1")) != training.world_size:
        raise RecipeError(
            f"{os.environ['WORLD_SIZE']} processes were started, but {training.world_size} would train: on a machine "
            "without accelerator leave --use_cpu at true."
        )
    if training.push_to_hub:
        raise RecipeError("--push_to_hub would publish checkpoints: publish the folder model/ when the run has ended.")
    if training.selection != "last" and (training.eval_strategy, training.save_strategy) != ("epoch", "epoch"):
        raise RecipeError(
            f"selection={training.selection} compares epochs: leave eval_strategy and save_strategy at epoch."
        )
    if training.augment_copies is not None and training.augment_copies < 1:
        raise RecipeError(f"--augment_copies {training.augment_copies}: at least 1.")
    if grid.jobs is not None and grid.jobs < 1:
        raise RecipeError(f"--jobs {grid.jobs}: at least 1.")


RANGES = {
    "learning_rate": (0, 100),
    "weight_decay": (0, 100),
    "num_train_epochs": (0, 10**5),
    "warmup_steps": (0, 10**9),
    "max_grad_norm": (0, 10**9),
    "per_device_train_batch_size": (1, 10**5),
    "per_device_eval_batch_size": (1, 10**5),
    "gradient_accumulation_steps": (1, 10**5),
    "dataloader_num_workers": (0, 1024),
    "seed": (0, 2**32 - 1),
}
"""From which to which value a setting of the Trainer may be; it takes any, and fails or learns nothing."""


def _check_ranges(arguments: Arguments) -> None:
    training = arguments.training
    values = [(name, getattr(training, name)) for name in RANGES] + [("seed", seed) for seed in arguments.seeds]
    for name, value in values:
        least, most = RANGES[name]
        if not least <= value <= most:  # NaN is in no range
            raise RecipeError(f"--{name} {value}: expected a number from {least:g} to {most:g}.")
    if training.num_train_epochs == 0 and training.max_steps <= 0:
        raise RecipeError("--num_train_epochs 0 trains nothing.")


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


def _varies(arguments: Arguments, name: str) -> bool:
    return any(name in own for own in combinations(arguments))


ATTENTION_FIELDS = (
    "num_pooling_heads",
    "pooling_head_dim",
    "pooling_statistics",
    "score_activation",
    "scale_scores",
    "pooling_dropout",
)
"""Fields of the attention poolings, `attentive` and `qkv`."""


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
            "it has a meaning only with --augment, which names what alters the views",
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
        _refuse_ignored_fields(arguments)


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


def _refuse(settings: Iterable[Any], *rules: tuple[str, Any, str]) -> None:
    """Raises for the first rule of settings that are given and not used.

    Args:
        settings: dataclasses; a field is given where it is not the default.
        rules: names, separated by spaces, whether these settings are used, and why not.
    """
    given = {field.name for one in settings for field in fields(one) if _is_given(one, field)}
    for names, used, reason in rules:
        flags = [f"--{name}" for name in names.split() if name in given]
        if flags and not used:
            raise RecipeError(f"{' and '.join(flags)} would be ignored: {reason}.")


def _is_given(settings: Any, field: Any) -> bool:
    default = field.default if field.default is not MISSING else field.default_factory()
    return getattr(settings, field.name) != default


def _refuse_ignored_fields(arguments: Arguments) -> None:
    """Raises for fields of the attention poolings that no model reads, or not the one that sets them."""
    everywhere: set[str] | None = None
    for own in combinations(arguments):
        settings = {**vars(arguments.model), **own}
        poolings = _poolings(settings)
        given = {name for name in ATTENTION_FIELDS if not _is_off(settings.get(name))}
        unread = given if not {"attentive", "qkv"} & {*poolings} else set()
        _refuse_unread(unread & {*own}, poolings)
        for member in settings.get("ensemble") or []:
            pooling = member.get("pooling_type", _poolings({**settings, "ensemble": None})[0])
            if pooling not in ("attentive", "qkv"):
                _refuse_unread({name for name in ATTENTION_FIELDS if not _is_off(member.get(name))}, [pooling])
        everywhere = unread if everywhere is None else everywhere & unread
    _refuse_unread(
        everywhere or set(),
        [pooling for own in combinations(arguments) for pooling in _poolings({**vars(arguments.model), **own})],
    )


def _poolings(settings: dict[str, Any]) -> list[str]:
    """Returns the poolings of a model's heads."""
    usual = settings.get("pooling_type") or WhisperSerConfig.pooling_type
    return [member.get("pooling_type", usual) for member in settings.get("ensemble") or [{}]]


def _refuse_unread(names: set[str], poolings: list[str]) -> None:
    if names:
        unread = [name for name in ATTENTION_FIELDS if name in names]
        told = ", ".join(dict.fromkeys(poolings))
        raise RecipeError(f"{' and '.join(unread)} would be ignored: no pooling of {told} reads it.")


def _is_off(value: Any) -> bool:
    """Whether a field asks for nothing: not given, no dropout, no activation."""
    return value in (None, False, 0, "none")
