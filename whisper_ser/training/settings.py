"""Settings of a training: each is declared once, as a dataclass field with metadata, and everything else follows.

The metadata of a field (`setting`) says what it belongs to, which values it takes, whether a saved model has fixed it,
and whether it affects results. Flags and recipes (`recipe.py`), the identity of a run (`identity.py`), what a grid may
vary (`grid.py`) and what a saved model or a cross-validation is compared by are derived from it.
"""

import copy
import difflib
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from enum import Enum
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch
from huggingface_hub.dataclasses import type_validator
from transformers import TrainingArguments

from modeling_whisper_ser import WhisperSerConfig
from modeling_whisper_ser.configuration_whisper_ser import LAYER_MIXINGS, POOLING_TYPES, SCORE_ACTIVATIONS
from whisper_ser.audio.augmentation import TRANSFORMS
from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.data.splits import PROTOCOLS
from whisper_ser.errors import RecipeError
from whisper_ser.training.augmented_views import AugmentedView, augmented_views

AUGMENT_COPIES = 4
"""Default of `augment_copies`."""


def setting(
    belongs: str,
    help: str,
    default: object = None,
    choices: tuple[str, ...] | None = None,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    fixed: bool = False,
    harmless: bool = False,
    checkpoint: bool = False,
    attention: bool = False,
    describe: bool = True,
    saved_as: str | None = None,
) -> Any:
    """Returns the dataclass field of a setting.

    Args:
        belongs: to `encoder` (what is encoded), `layers` (which states are read), `head`, `training`, `seed`, `data`,
            `folds`, `machine` (paths, trackers, processes: nothing that affects results) or `grid`.
        least, most: the range of its values.
        fixed: a saved model has fixed it.
        harmless: it affects no result, though it does not belong to the machine.
        checkpoint: it names a checkpoint, which is compared by its content.
        attention: only the attention poolings, `attentive` and `qkv`, read it.
        describe: of the data: `whisper-ser describe` has a flag for it.
        saved_as: the field of the model's config that holds it, where that has another name.
    """
    about = {"help": help, "belongs": belongs, "choices": choices, "least": least, "most": most, "fixed": fixed}
    about |= {"harmless": harmless, "checkpoint": checkpoint, "attention": attention, "describe": describe}
    return field(default=default, metadata={**about, "saved_as": saved_as})


@dataclass
class ModelArguments:
    """What is trained. Fields left out take the defaults of `WhisperSerConfig`, or those of the saved model."""

    encoder: str | None = setting(
        "encoder", "Whisper checkpoint to build a new model on: Hub id, folder or CTranslate2 folder.", checkpoint=True
    )
    model_name_or_path: str | None = setting(
        "encoder",
        "Instead: a saved or published model to train on from. New labels start a new classifier.",
        checkpoint=True,
    )
    layers: list[int] | None = setting(
        "layers",
        "Encoder layer that is read, from 1; with --layer_mixing several, ascending, by one model.",
        fixed=True,
        saved_as="layer_indices",
    )
    layer_mixing: str | None = setting("layers", "How several layers become one.", choices=LAYER_MIXINGS, fixed=True)
    d_model: int | None = setting("head", "Width of the projected frames.", fixed=True)
    pooling_type: str | None = setting("head", "How frames become one vector.", choices=POOLING_TYPES, fixed=True)
    num_pooling_heads: int | None = setting("head", "Attention heads of the pooling.", fixed=True, attention=True)
    pooling_head_dim: int | None = setting("head", "Size of each head.", fixed=True, attention=True)
    pooling_statistics: bool | None = setting(
        "head", "Deviation besides mean under the attention weights.", fixed=True, attention=True
    )
    score_activation: str | None = setting(
        "head", "On attention scores.", choices=SCORE_ACTIVATIONS, fixed=True, attention=True
    )
    scale_scores: bool | None = setting(
        "head", "Divide attention scores by the root of the head size.", fixed=True, attention=True
    )
    layer_norm_after_pooling: bool | None = setting("head", "One more LayerNorm before the classifier.", fixed=True)
    channel_standardisation: bool | None = setting(
        "head", "Standardise the channels of the encoder states.", fixed=True
    )
    chunk_seconds: float | None = setting(
        "encoder", "Longest stretch of audio encoded at once, in seconds.", fixed=True
    )
    frame_averaging: int | None = setting(
        "encoder", "Average every so many encoder frames (50 a second) before the head.", fixed=True
    )
    ensemble: list[dict[str, Any]] | None = setting(
        "head",
        "Several heads over one pass of the encoder, each as JSON: the fields of a head in which it differs from the "
        """others, such as '{}' '{}' '{"pooling_type": "attentive"}'.""",
        fixed=True,
    )
    input_dropout: float | None = setting("head", "Share of the encoder states' channels dropped in training.")
    pooling_dropout: float | None = setting("head", "Dropout inside the pooling.", attention=True)
    classifier_dropout: float | None = setting("head", "Dropout on the pooled vector.")
    label_smoothing: float | None = setting("head", "Label smoothing of the loss.")
    unfreeze_last_n: int | None = setting("training", "Train this many of the top encoder layers too.")
    mixup: float | None = setting("head", "Alpha of mixup of pooled vectors, such as 0.2; 0 for none.")
    class_weighting: str = setting(
        "training",
        "Against classes that are rare in training. balanced: weights in the loss inverse to their frequency; "
        "logit_adjustment: the logarithms of their frequencies added to the logits of the loss.",
        "none",
        ("none", "balanced", "logit_adjustment"),
    )
    pad_to_seconds: float | None = setting(
        "encoder", "The paper's 30: pad or truncate audio to this length.", fixed=True
    )

    @property
    def config_fields(self) -> dict[str, Any]:
        """The fields of `WhisperSerConfig` that the settings name."""
        known = WhisperSerConfig.__annotations__
        given = {name: value for name, value in vars(self).items() if name in known and value is not None}
        if self.ensemble:
            given["ensemble"] = [_member_fields(member) for member in self.ensemble]
        if self.layers:
            given["layer_index"] = self.layers[-1]
            # A single layer leaves members of an ensemble their own layers.
            if len(self.layers) > 1 or self.layer_mixing not in (None, "none"):
                given["layer_indices"] = self.layers
        return given


@dataclass
class DataArguments:
    """What it is trained on."""

    corpus: str = setting(
        "data",
        "Your own, a manifest of EmoBox, the synthetic demo corpus, or a published corpus by name.",
        "own",
        ("own", "emobox", "demo", *CORPORA),
        describe=False,
    )
    data_dir: str | None = setting(
        "machine",
        "Folder of audio with a metadata.csv (file_name, emotion, speaker), or with a folder for each label, or a "
        "published corpus as distributed.",
        describe=False,
    )
    table: str | None = setting(
        "machine",
        "A table elsewhere (.csv, .tsv, .jsonl, .parquet), whose paths begin at the data folder, or a Hub dataset id.",
    )
    path_column: str | None = setting("data", "Column of the audio; file_name, path, file and the like are found.")
    label_column: str | None = setting("data", "Column of the emotion; emotion and label are found.")
    speaker_column: str | None = setting("data", "Column of the speaker; speaker and speaker_id are found.")
    fold_column: str | None = setting("folds", "Column of the fold in which a row tests; fold is found.")
    split_column: str | None = setting("folds", "Column that says train, validation or test.")
    label_aliases: list[str] | None = setting("data", "What labels are to be called: ang=angry exc=happy.")
    drop_other_labels: bool = setting("data", "Leave out rows whose label is not one of --labels.", False)
    manifest: str | None = setting(
        "machine", "Of the corpus emobox: <EmoBox>/data/<set>; the data folder then holds the audio."
    )
    classes: int | None = setting(
        "data", "Of a published corpus with several label sets: how many, such as 4, 5 or 6."
    )
    subset: str | None = setting("data", "Of a published corpus with subsets, such as improvised or all of iemocap.")
    allow_incomplete: bool = setting(
        "data", "Take a published corpus that lacks files, and log what it lacks.", False, harmless=True
    )
    license: str | None = setting(
        "data",
        "Licence of the trained model, an identifier of the Hub such as cc-by-4.0, where it does not follow from the "
        "corpus and the model trained on: for your own data, and corpora whose terms leave it open.",
        harmless=True,
        describe=False,
    )
    labels: list[str] | None = setting("data", "The emotions, in the order of the logits; left out, all found.")
    protocol: str = setting(
        "folds",
        "split: one test part of held-out speakers. Others cross-validate: loso leaves one speaker out, group a "
        "session or published group, speaker_groups some speakers, fold a published fold; fixed takes its parts; "
        "stratified is for unknown speakers; auto chooses.",
        "split",
        ("split", *PROTOCOLS),
    )
    num_groups: int | None = setting("folds", "Folds of speaker_groups and stratified; 5 by default.")
    allow_leaks: list[str] | None = setting(
        "data",
        "Kinds of leaks (speakers, audio, labels) to accept between the parts; every table says so.",
        harmless=True,
        describe=False,
    )
    test_speakers: list[str] | None = setting("folds", "Speakers held out for the test; left out, drawn by the seed.")
    validation_speakers: list[str] | None = setting("folds", "Speakers held out for validation.")
    test_fraction: float = setting("folds", "With split: share of all speakers, drawn for the test.", 0.2)
    feature_dir: str = setting(
        "machine",
        "Where the encoder's states are kept, for this run and others on the same audio.",
        "outputs/features",
        describe=False,
    )
    validation_fraction: float | None = setting(
        "folds",
        "Share of the training speakers, those who do not test, drawn for validation; by default 0.2 with "
        "selection=validation or refit, else none.",
    )


TRAINER_MACHINE_FIELDS = """
    logging_steps logging_first_step log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen
    log_level log_level_replica disable_tqdm run_name project trackio_space_id trackio_bucket_id
    trackio_static_space_id eval_accumulation_steps batch_eval_metrics torch_empty_cache_steps save_only_model
    save_steps save_on_each_node enable_jit_checkpoint push_to_hub hub_private_repo hub_model_id hub_strategy
    hub_always_push hub_revision ignore_data_skip restore_callback_states_from_checkpoint
    dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names ddp_timeout debug
    skip_memory_metrics do_train do_eval do_predict
"""
INHERITED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(TRAINER_MACHINE_FIELDS.split(), {"belongs": "machine"}),
    **dict.fromkeys(("hub_token", "local_rank", "resume_from_checkpoint"), {"belongs": "machine", "unwritten": True}),
    "dataloader_num_workers": {"belongs": "machine", "least": 0, "most": 1024},
    "seed": {"belongs": "seed", "least": 0, "most": 2**32 - 1},
    "data_seed": {"belongs": "seed"},
    "gradient_accumulation_steps": {"least": 1, "most": 10**5},
    "max_grad_norm": {"least": 0, "most": 10**9},
}
"""Metadata of fields that `SerTrainingArguments` inherits; unless it says otherwise, they belong to the training."""


@dataclass
class SerTrainingArguments(TrainingArguments):
    """How it is trained: the arguments of the Trainer, with the paper's values (section 4.2) as defaults."""

    output_dir: str = setting("machine", "Folder of the run: model, metrics, predictions, figure.", "outputs/run")
    selection: str = setting(
        "training",
        "Which epoch is kept: the last, or the one with the best UA on the validation speakers. test_best takes the "
        "best WA on the test part, as the paper's authors do: figures that flatter, for comparison with theirs only.",
        "last",
        ("last", "validation", "test_best"),
    )
    num_train_epochs: float = setting("training", "Epochs.", 30.0, least=0, most=10**5)
    per_device_train_batch_size: int = setting("training", "Utterances a step and process.", 16, least=1, most=10**5)
    per_device_eval_batch_size: int = setting(
        "machine", "Utterances a step and process when predicting.", 64, least=1, most=10**5
    )
    learning_rate: float = setting("training", "Peak learning rate.", 1e-3, least=0, most=100)
    weight_decay: float = setting("training", "Weight decay of AdamW.", 0.01, least=0, most=100)
    refit: bool = setting(
        "training",
        "Fit the temperature on the validation speakers, then train again with them included, and keep that model.",
        False,
    )
    augment: list[str] | None = setting(
        "training",
        "Train on augmented views of the training utterances too; each view draws some of these. For each utterance "
        "an epoch takes either itself or one of its views.",
        choices=tuple(TRANSFORMS),
    )
    augment_copies: int | None = setting(
        "training", f"With --augment: views of each utterance; {AUGMENT_COPIES} by default.", least=1
    )
    lr_scheduler_type: str = setting("training", "Learning rate schedule.", "cosine")
    warmup_steps: float = setting(
        "training", "Steps of warm-up, or their share when below 1.", 0.1, least=0, most=10**9
    )
    eval_strategy: str = setting("training", "When to evaluate on the validation speakers.", "epoch")
    logging_strategy: str = setting("machine", "When to log the loss.", "epoch")
    save_strategy: str = setting("machine", "When to write a checkpoint to resume from.", "epoch")
    save_total_limit: int | None = setting("machine", "Checkpoints kept besides the best.", 1)
    report_to: str = setting("machine", "Experiment trackers: none, tensorboard, wandb, ...", "none")
    use_cpu: bool = setting("machine", "Train on the CPU.", not torch.accelerator.is_available())
    dataloader_pin_memory: bool = setting("machine", "Pin memory.", torch.cuda.is_available())

    @property
    def augmented_views(self) -> list[AugmentedView]:
        """The augmented views of each training utterance."""
        return augmented_views(self.augment, self.augment_copies or AUGMENT_COPIES)


@dataclass
class GridArguments:
    """What is varied: every combination is trained with every seed on every fold."""

    grid: dict[str, Any] | None = setting(
        "grid",
        'What varies, as JSON: {"layers": [[2], [3]], "pooling_type": ["mean", "qkv"], "seed": [0, 1]}. An axis may '
        'list objects, settings that go together; {"layers": "all"} takes every layer of the encoder.',
    )
    variants: dict[str, Any] | None = setting(
        "grid",
        "Instead: settings of model and training by name, as JSON, each cross-validated on the same folds and seeds "
        'and compared with the first: {"ours": {}, "no dropout": {"input_dropout": 0}}.',
    )
    seeds: list[int] | None = setting(
        "grid", "Seeds in place of --seed, as the axis seed of --grid.", least=0, most=2**32 - 1
    )
    jobs: int | None = setting(
        "machine",
        "Trainings at a time, each in a process of its own; by default one a core, one alone on an accelerator.",
        least=1,
    )

    @property
    def varies(self) -> bool:
        """Whether settings vary, not only seeds."""
        return bool(self.variants or self.grid)


class Arguments(NamedTuple):
    """All settings of an experiment, or of one training."""

    model: ModelArguments
    data: DataArguments
    training: SerTrainingArguments
    grid: GridArguments

    @property
    def seeds(self) -> list[int]:
        """The seeds of the trainings, each once."""
        return [*dict.fromkeys(self.grid.seeds or [self.training.seed])]

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings that are not defaults as `build` takes them: the content of a recipe."""
        unwritten = {name for name, one in all_settings().items() if metadata(one).get("unwritten")}
        written = {name: value for group in self for name, value in given(group).items() if name not in unwritten}
        return {**written, "output_dir": self.training.output_dir}

    def with_seed(self, seed: int) -> "Arguments":
        """Returns the settings of the training of one seed."""
        training = copy.copy(self.training)
        training.seed = seed
        return self._replace(training=training)

    def with_settings(self, **settings: Any) -> "Arguments":
        """Returns these settings with others in their place; raises `RecipeError` as `build`."""
        return build({**{name: value for group in self for name, value in given(group).items()}, **settings})


GROUPS: list[Any] = [ModelArguments, DataArguments, SerTrainingArguments, GridArguments]


def given(group: Any) -> dict[str, Any]:
    """Returns the settings of one of the groups that are not defaults, by name."""
    default, values = type(group)(), {one.name: getattr(group, one.name) for one in fields(group) if one.init}
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in values.items()
        if value != getattr(default, name)
    }


def metadata(of: Field) -> Mapping[str, Any]:
    """Returns what is said of a setting: its own metadata, or that of an inherited field."""
    if "belongs" in of.metadata:
        return of.metadata
    return {**of.metadata, "belongs": "training", **INHERITED.get(of.name, {})}


def is_harmless(of: Field) -> bool:
    """Returns whether a setting affects no result. All others of model and training are part of a run's identity."""
    about = metadata(of)
    return bool(about["belongs"] == "machine" or about.get("harmless"))


def all_settings() -> dict[str, Field]:
    """Returns every setting by its name."""
    return {one.name: one for group in GROUPS for one in fields(group) if one.init}


def settings_of(*belongs: str) -> set[str]:
    """Returns the names of the settings that belong to one of `belongs`."""
    return {name for name, one in all_settings().items() if metadata(one)["belongs"] in belongs}


def may_vary() -> set[str]:
    """Returns the settings that a variant or an axis of a grid may change, seeds aside."""
    return settings_of("encoder", "layers", "head", "training")


def build(settings: Mapping[str, Any]) -> Arguments:
    """Returns the settings of `{name: value}`, defaults for the others and for `None`.

    Raises:
        RecipeError: an unknown name, or a value that its setting does not take.
    """
    checked = {name: conform(name, value) for name, value in settings.items() if value is not None}
    try:
        return Arguments(
            *(
                group(**{one.name: checked[one.name] for one in fields(group) if one.name in checked})
                for group in GROUPS
            )
        )
    except (ValueError, OverflowError, ImportError) as error:  # of TrainingArguments, which checks its own values
        raise RecipeError(str(error)) from error


def find_setting(name: str) -> Field:
    """Returns the setting called `name`; raises `RecipeError` with a hint if there is none."""
    known = all_settings()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = RENAMED.get(name) or (f"; did you mean {close[0]!r}?" if close else ".")
    raise RecipeError(f"There is no setting {name!r}{hint}")


def conform(name: str, value: Any) -> Any:
    """Returns `value` as the setting `name` takes it: a whole number as a fractional one where that is expected.

    Raises:
        RecipeError: there is no such setting, or the value has another type, is none of the choices or out of range.
    """
    about, kind = metadata(find_setting(name)), kind_of(name)
    try:
        if float in kinds_of(kind) and type(value) is int:
            value = float(value)
        type_validator(name, value, kind)
    except (TypeError, OverflowError):
        raise RecipeError(f"--{name} {str(value):.100}: expected {_type_name(kind)}.") from None
    choices, least, most = about.get("choices"), about.get("least", -math.inf), about.get("most", math.inf)
    expected = f"at least {least:g}" if most == math.inf else f"a number from {least:g} to {most:g}"
    for one in value if isinstance(value, list) else [value]:
        if choices and one not in choices:
            raise RecipeError(f"--{name} {one}: expected one of {', '.join(choices)}.")
        if least > -math.inf and not least <= one <= most:  # NaN is in no range
            raise RecipeError(f"--{name} {one}: expected {expected}.")
    return value


RENAMED = {
    "layer_index": ": it is --layers 3 now.",
    "layer_indices": ": it is --layers 2 3 4 now.",
    "encoders": """: what varies stands under --grid '{"encoder": ["openai/whisper-tiny", ...]}'.""",
    "poolings": """: what varies stands under --grid '{"pooling_type": ["mean", "qkv"]}'.""",
    "by_pooling": """: settings that go together are objects, --grid '{"pooling": [{"pooling_type": "qkv"}]}'.""",
}
"""What to write in place of a setting of the first version."""


def kind_of(name: str) -> Any:
    """Returns the type of a setting."""
    return next(hints[name] for hints in map(get_type_hints, GROUPS) if name in hints)


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """Returns the types of a union, `None` left out, or the one type."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(one for one in kinds if one is not NoneType)


def _type_name(kind: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a JSON object"}
    told = [
        f"a list, each {_type_name(get_args(one)[0])}"
        if get_origin(one) is list
        else words.get(get_origin(one) or one)
        for one in kinds_of(kind)
    ]
    return " or ".join(filter(None, told))


def _member_fields(member: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a member of an ensemble as `WhisperSerConfig` takes it, whose layers are `layer_indices`."""
    return {"layer_indices" if name == "layers" else name: value for name, value in member.items()}
