"""Settings that another setting leaves without effect: they are refused, not ignored."""

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.data.splits import GROUP_PROTOCOLS
from whisper_ser.errors import RecipeError

if TYPE_CHECKING:
    from whisper_ser.training.settings import Arguments, DataArguments

ATTENTION_FIELDS = (
    "num_pooling_heads",
    "pooling_head_dim",
    "pooling_statistics",
    "score_activation",
    "scale_scores",
    "pooling_dropout",
)
"""Fields of the attention poolings, `attentive` and `qkv`."""


def refuse_ignored(arguments: "Arguments") -> None:
    """Raises `RecipeError` for settings that the others leave without effect."""
    model, data, training, sweep = arguments
    refuse_ignored_data(data)
    several = data.protocol != "split" or sweep.varies
    _refuse(
        [model, training, sweep],
        ("encoder", model.model_name_or_path is None, "--model_name_or_path has an encoder of its own"),
        (
            "augment_copies",
            training.augment,
            "it has a meaning only with --augment, which names what alters the copies",
        ),
        ("jobs", several or sweep.jobs == 1, "only a cross-validation or a sweep has several trainings"),
        (
            "resume_from_checkpoint save_strategy save_steps save_total_limit",
            not several and sweep.variants is None,
            "a cross-validation or a sweep keeps finished trainings and no checkpoints",
        ),
        ("metric_for_best_model", training.load_best_model_at_end, "--selection names the metric"),
        ("greater_is_better", training.load_best_model_at_end, "--selection names the metric"),
        ("hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision", False, "publish with push"),
        ("remove_unused_columns label_names", False, "the Trainer is given the inputs that the model reads"),
        ("do_train do_predict", False, "every run trains and tests"),
    )
    if model.model_name_or_path is None and sweep.variants is None:
        _refuse_ignored_fields(arguments)


def refuse_ignored_data(data: "DataArguments") -> None:
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


def _refuse_ignored_fields(arguments: "Arguments") -> None:
    """Raises for fields of the head that none of the poolings trained reads."""
    model, _, _, sweep = arguments
    usual = model.pooling_type or WhisperSerConfig.pooling_type
    members = [] if sweep.poolings or not model.ensemble else (model.members or [])
    poolings = sweep.poolings or [member.get("pooling_type", usual) for member in members] or [usual]
    own = [(member.get("pooling_type", usual), member) for member in members]
    own += [(pooling, sweep.settings_of(pooling)) for pooling in sweep.poolings or []]
    for names, settings in [(poolings, vars(model)), *(([pooling], settings) for pooling, settings in own)]:
        unread = [name for name in ATTENTION_FIELDS if not _is_off(settings.get(name))]
        if unread and not {"attentive", "qkv"} & {*names}:
            raise RecipeError(f"{' and '.join(unread)} would be ignored: no pooling of {', '.join(names)} reads it.")


def _is_off(value: Any) -> bool:
    """Whether a field asks for nothing: not given, no dropout, no activation."""
    return value in (None, False, 0, "none")
