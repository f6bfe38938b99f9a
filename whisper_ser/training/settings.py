"""Settings of `run_train.py`: a recipe file, flags over it, or both."""

import copy
import difflib
import json
import os
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from modeling_whisper_ser.configuration_whisper_ser import LAYER_MIXINGS, POOLING_TYPES, SCORE_ACTIVATIONS
from whisper_ser.audio.augmentation import TRANSFORMS
from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.data.splits import PROTOCOLS
from whisper_ser.errors import RecipeError
from whisper_ser.training.augmented_views import AugmentedView, augmented_views
from whisper_ser.training.ignored import refuse_ignored

ARCHITECTURE = (
    "layer_index",
    "layer_mixing",
    "layer_indices",
    "d_model",
    "pooling_type",
    "num_pooling_heads",
    "pooling_head_dim",
    "pooling_statistics",
    "score_activation",
    "scale_scores",
    "layer_norm_after_pooling",
    "channel_standardisation",
    "chunk_seconds",
    "frame_averaging",
    "ensemble",
)
"""Fields that a saved model has settled."""
OF_THE_HEAD = (
    "d_model",
    "num_pooling_heads",
    "pooling_head_dim",
    "pooling_statistics",
    "score_activation",
    "scale_scores",
    "layer_norm_after_pooling",
    "input_dropout",
    "pooling_dropout",
    "classifier_dropout",
    "label_smoothing",
    "mixup",
)
"""Fields that change neither what is encoded nor which layers are read."""
TRAINING_FIELDS = (
    "input_dropout",
    "pooling_dropout",
    "classifier_dropout",
    "label_smoothing",
    "mixup",
    "unfreeze_last_n",
)
"""Fields of the model's config that a run may set anew."""

COPIES = 4
"""Altered copies of each utterance, where no other number is asked for."""
VARIANTS_KEEP = ("seed", "data_seed", "output_dir", "resume_from_checkpoint", "use_cpu")
"""Settings of the training that are the same for all variants of an ablation, or of each its own."""


HARMLESS_TRAINER_SETTINGS = {
    "output_dir",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "log_on_each_node",
    "logging_nan_inf_filter",
    "include_num_input_tokens_seen",
    "log_level",
    "log_level_replica",
    "disable_tqdm",
    "report_to",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "per_device_eval_batch_size",
    "eval_accumulation_steps",
    "batch_eval_metrics",
    "torch_empty_cache_steps",
    "save_only_model",
    "save_strategy",
    "save_steps",
    "save_on_each_node",
    "save_total_limit",
    "enable_jit_checkpoint",
    "push_to_hub",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
    "ignore_data_skip",
    "restore_callback_states_from_checkpoint",
    "use_cpu",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "dataloader_in_order",
    "remove_unused_columns",
    "label_names",
    "ddp_timeout",
    "debug",
    "skip_memory_metrics",
    "do_train",
    "do_eval",
    "do_predict",
    "resume_from_checkpoint",
    "local_rank",
}
"""Settings of the Trainer that change no figure: where things are written, what is shown, how fast data is read."""


def is_harmless(field: Field) -> bool:
    """Whether a setting changes no figure of a run. What is not marked so is part of the run's identity."""
    return field.name in HARMLESS_TRAINER_SETTINGS


def _option(help_text: str, default: object = None, choices: tuple[str, ...] | None = None) -> Any:
    metadata: dict[str, Any] = {"help": help_text}
    if choices:
        metadata["choices"] = choices
    return field(default=default, metadata=metadata)


@dataclass
class ModelArguments:
    """What is trained. Fields left out take the defaults of `WhisperSerConfig`, or those of the saved model."""

    encoder: str | None = _option("Whisper checkpoint to build a new model on: Hub id, folder or CTranslate2 folder.")
    model_name_or_path: str | None = _option(
        "Instead: a saved or published model to train on from. New labels start a new classifier."
    )
    layer_index: int | None = _option("Encoder layer that is read, from 1.")
    layer_mixing: str | None = _option("How several layers become one.", choices=LAYER_MIXINGS)
    layer_indices: list[int] | None = _option("With --layer_mixing: the encoder layers read, ascending.")
    d_model: int | None = _option("Width of the projected frames.")
    pooling_type: str | None = _option("How frames become one vector.", choices=POOLING_TYPES)
    num_pooling_heads: int | None = _option("Attention heads of the pooling.")
    pooling_head_dim: int | None = _option("Size of each head.")
    pooling_statistics: bool | None = _option("Deviation besides mean under the attention weights.")
    score_activation: str | None = _option("On attention scores.", choices=SCORE_ACTIVATIONS)
    scale_scores: bool | None = _option("Divide attention scores by the root of the head size.")
    layer_norm_after_pooling: bool | None = _option("One more LayerNorm before the classifier.")
    channel_standardisation: bool | None = _option("Standardise the channels of the encoder states.")
    chunk_seconds: float | None = _option("Longest stretch of audio encoded at once, in seconds.")
    frame_averaging: int | None = _option("Average every so many encoder frames (50 a second) before the head.")
    ensemble: list[str] | None = _option(
        "Several heads over one pass of the encoder, each as JSON: the fields of a head in which it differs from the "
        """others, such as '{}' '{}' '{"pooling_type": "attentive"}'."""
    )
    input_dropout: float | None = _option("Share of the encoder states' channels dropped in training.")
    pooling_dropout: float | None = _option("Dropout inside the pooling.")
    classifier_dropout: float | None = _option("Dropout on the pooled vector.")
    label_smoothing: float | None = _option("Label smoothing of the loss.")
    unfreeze_last_n: int | None = _option("Train this many of the top encoder layers too.")
    mixup: float | None = _option("Alpha of mixup of pooled vectors, such as 0.2; 0 for none.")
    class_weighting: str = _option(
        "Against classes that are rare in training. balanced: weights in the loss inverse to their frequency; "
        "logit_adjustment: the logarithms of their frequencies added to the logits of the loss.",
        "none",
        ("none", "balanced", "logit_adjustment"),
    )
    pad_to_seconds: float | None = _option("The paper's 30: pad or truncate audio to this length.")

    @property
    def members(self) -> list[Any] | None:
        """The members of an ensemble as `WhisperSerConfig` takes them."""
        return None if self.ensemble is None else [json.loads(member) for member in self.ensemble]


@dataclass
class DataArguments:
    """What it is trained on."""

    corpus: str = _option(
        "Your own, a manifest of EmoBox, the synthetic demo corpus, or a published corpus by name.",
        "own",
        ("own", "emobox", "demo", *CORPORA),
    )
    data_dir: str | None = _option(
        "Folder of audio with a metadata.csv (file_name, emotion, speaker), or with a folder for each label, or a "
        "published corpus as distributed."
    )
    table: str | None = _option(
        "A table elsewhere (.csv, .tsv, .jsonl, .parquet), whose paths begin at the data folder, or a Hub dataset id."
    )
    path_column: str | None = _option("Column of the audio; file_name, path, file and the like are found.")
    label_column: str | None = _option("Column of the emotion; emotion and label are found.")
    speaker_column: str | None = _option("Column of the speaker; speaker and speaker_id are found.")
    fold_column: str | None = _option("Column of the fold in which a row tests; fold is found.")
    split_column: str | None = _option("Column that says train, validation or test.")
    label_aliases: list[str] | None = _option("What labels are to be called: ang=angry exc=happy.")
    drop_other_labels: bool = _option("Leave out rows whose label is not one of --labels.", False)
    manifest: str | None = _option("Of the corpus emobox: <EmoBox>/data/<set>; the data folder then holds the audio.")
    classes: int | None = _option("Of a published corpus with several label sets: how many, such as 4, 5 or 6.")
    subset: str | None = _option("Of a published corpus with subsets, such as improvised or all of iemocap.")
    allow_incomplete: bool = _option("Take a published corpus that lacks files, and log what it lacks.", False)
    license: str | None = _option(
        "Licence of the trained model, an identifier of the Hub such as cc-by-4.0, where it does not follow from the "
        "corpus and the model trained on: for your own data, and corpora whose terms leave it open."
    )
    labels: list[str] | None = _option("The emotions, in the order of the logits; left out, all found.")
    protocol: str = _option(
        "split: one test part of held-out speakers. Others cross-validate: loso leaves one speaker out, group a "
        "session or published group, speaker_groups some speakers, fold a published fold; fixed takes its parts; "
        "stratified is for unknown speakers; auto chooses.",
        "split",
        ("split", *PROTOCOLS),
    )
    num_groups: int | None = _option("Folds of speaker_groups and stratified; 5 by default.")
    allow_leaks: list[str] | None = _option(
        "Kinds of leaks (speakers, audio, labels) to accept between the parts; every table says so."
    )
    test_speakers: list[str] | None = _option("Speakers held out for the test; left out, drawn by the seed.")
    validation_speakers: list[str] | None = _option("Speakers held out for validation.")
    test_fraction: float = _option("With split: share of all speakers, drawn for the test.", 0.2)
    feature_dir: str = _option(
        "Where the encoder's states are kept, for this run and others on the same audio.", "outputs/features"
    )
    validation_fraction: float | None = _option(
        "Share of the training speakers, those who do not test, drawn for validation; by default 0.2 with "
        "selection=validation or refit, else none."
    )


@dataclass
class SerTrainingArguments(TrainingArguments):
    """How it is trained: the arguments of the Trainer, with the paper's values (section 4.2) as defaults."""

    output_dir: str = _option("Folder of the run: model, metrics, predictions, figure.", "outputs/run")
    selection: str = _option(
        "Which epoch is kept: the last, or the one with the best UA on the validation speakers. test_best takes the "
        "best WA on the test part, as the paper's authors do: figures that flatter, for comparison with theirs only.",
        "last",
        ("last", "validation", "test_best"),
    )
    num_train_epochs: float = _option("Epochs.", 30.0)
    per_device_train_batch_size: int = _option("Utterances a step and process.", 16)
    per_device_eval_batch_size: int = _option("Utterances a step and process when predicting.", 64)
    learning_rate: float = _option("Peak learning rate.", 1e-3)
    weight_decay: float = _option("Weight decay of AdamW.", 0.01)
    refit: bool = _option(
        "When the validation speakers have given the temperature, train anew on them too, and keep it.", False
    )
    augment: list[str] | None = _option(
        "Train on altered copies of the training utterances as well; each copy draws some of these. For each "
        "utterance an epoch takes either itself or one of its copies.",
        choices=tuple(TRANSFORMS),
    )
    augment_copies: int | None = _option(f"With --augment: copies of each utterance; {COPIES} by default.")
    lr_scheduler_type: str = _option("Learning rate schedule.", "cosine")
    warmup_steps: float = _option("Steps of warm-up, or their share when below 1.", 0.1)
    eval_strategy: str = _option("When to evaluate on the validation speakers.", "epoch")
    logging_strategy: str = _option("When to log the loss.", "epoch")
    save_strategy: str = _option("When to write a checkpoint to resume from.", "epoch")
    save_total_limit: int | None = _option("Checkpoints kept besides the best.", 1)
    report_to: str = _option("Experiment trackers: none, tensorboard, wandb, ...", "none")
    use_cpu: bool = _option("Train on the CPU.", not torch.accelerator.is_available())
    dataloader_pin_memory: bool = _option("Pin memory.", torch.cuda.is_available())

    @property
    def augmented_views(self) -> list[AugmentedView]:
        """The altered copies of each training utterance."""
        return augmented_views(self.augment, self.augment_copies or COPIES)


@dataclass
class SweepArguments:
    """What is varied: one training for each encoder, layer, pooling, seed and fold."""

    encoders: list[str] | None = _option("Several encoders; a single --encoder takes their place.")
    layers: list[str] | None = _option("Encoder layers, from 1, or all.")
    poolings: list[str] | None = _option("Poolings.", choices=POOLING_TYPES)
    by_pooling: str | None = _option(
        'Settings of the model for one pooling only, as JSON: {"qkv": {"score_activation": "tanh"}}.'
    )
    variants: str | None = _option(
        "Instead of all these: settings of model and training by name, as JSON, each cross-validated on the same "
        'folds and seeds and compared with the first: {"ours": {}, "no dropout": {"input_dropout": 0}}. null takes '
        "a setting away."
    )
    seeds: list[int] | None = _option("Seeds, in place of --seed; also of a cross-validation without a sweep.")
    jobs: int | None = _option(
        "Trainings at a time, each in a process of its own; by default one a core, one alone on an accelerator."
    )

    def settings_of(self, pooling: str) -> dict[str, Any]:
        """Returns the settings of the model that hold for this pooling only."""
        return json.loads(self.by_pooling or "{}").get(pooling, {})

    @property
    def settings_of_variants(self) -> dict[str, dict[str, Any]]:
        """The settings of each variant that are not those of all, by its name."""
        return json.loads(self.variants or "{}")

    @property
    def varies(self) -> bool:
        """Whether this is a sweep."""
        return bool(self.encoders or self.layers or self.poolings)


class Arguments(NamedTuple):
    """All settings of a run."""

    model: ModelArguments
    data: DataArguments
    training: SerTrainingArguments
    sweep: SweepArguments

    def with_seed(self, seed: int) -> "Arguments":
        """Returns the settings with another seed."""
        training = copy.copy(self.training)
        training.seed = seed
        return self._replace(training=training)


def parse_arguments(argv: list[str]) -> Arguments:
    """Returns the settings of a command line: a recipe `.json` first if there is one, flags over it.

    Raises:
        RecipeError: the recipe is no JSON object, has unknown fields, or the settings contradict each other.
    """
    parser = HfArgumentParser(
        [ModelArguments, DataArguments, SerTrainingArguments, SweepArguments],  # type: ignore[list-item]
        description="Train, fine-tune and test a speech emotion recognition model.",
        usage="%(prog)s [RECIPE.json] [--flag value ...]",
        allow_abbrev=False,
    )
    parser.error = _refuse  # type: ignore[method-assign]
    if not (argv and argv[0].endswith(".json")):
        return _parsed(parser, argv)
    try:
        recipe = _read_recipe(find_recipe(argv[0]))
        flags = {flag.partition("=")[0] for flag in argv}
        if flags & {"--encoder", "--model_name_or_path"}:
            recipe.pop("encoders", None)
        if "--model_name_or_path" in flags:
            recipe.pop("encoder", None)
        return _parsed(parser, [*as_flags(recipe), *argv[1:]])
    except RecipeError as error:
        if argv[0] in str(error):
            raise
        raise RecipeError(f"{error} (The recipe is {argv[0]}.)") from error


def _parsed(parser: HfArgumentParser, argv: list[str]) -> Arguments:
    try:
        model, data, training, sweep, unknown = parser.parse_args_into_dataclasses(
            argv, return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, OverflowError, ImportError) as error:  # of TrainingArguments, which checks its own values
        raise RecipeError(str(error)) from error
    if unknown:
        name = unknown[0].removeprefix("--")
        close = difflib.get_close_matches(name, [action.dest for action in parser._actions], n=1)
        raise RecipeError(f"There is no setting {name!r}" + (f"; did you mean {close[0]!r}?" if close else "."))
    arguments = Arguments(model, data, training, sweep)
    _check(arguments)
    return arguments


def _refuse(message: str) -> NoReturn:
    raise RecipeError(f"{message}.")


def as_flags(recipe: dict[str, Any]) -> list[str]:
    """Returns a recipe as the flags it stands for, so that its values are checked as theirs are."""
    flags = []
    for name, value in recipe.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            flags += [f"--{name}", *(v if isinstance(v, str) else json.dumps(v) for v in values)]
    return flags


def find_recipe(name: str) -> Path:
    """Returns the recipe file `name`: as a path, else one that ships with the package, such as `recipes/best.json`."""
    path, package = Path(name).expanduser(), Path(__file__).parent.parent
    if path.exists():
        return path
    # Inside the package where it is installed, beside it in a checkout.
    for folder in (package / "recipes", package.parent / "recipes"):
        shipped = folder / Path(name).as_posix().removeprefix("recipes/")
        if not path.is_absolute() and ".." not in path.parts and shipped.is_file():
            return shipped
    return path


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        shipped = "recipes/best.json, recipes/baseline.json, recipes/demo.json"
        raise RecipeError(
            f"There is no recipe {path}: give a JSON file, or one that ships, such as {shipped}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"The recipe {path} is not JSON: {error}.") from error
    if not isinstance(recipe, dict):
        raise RecipeError(f"The recipe {path} must be a JSON object of settings.")
    return recipe


def _check(arguments: Arguments) -> None:
    """Raises for settings that contradict each other or would be ignored."""
    model, data, training, sweep = arguments
    _check_ensemble(model)
    _check_ranges(training, sweep)
    _check_sweep(arguments)
    refuse_ignored(arguments)
    _check_augmentation(training)
    if model.model_name_or_path is None and model.encoder is None and not sweep.encoders:
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


def _check_ensemble(model: ModelArguments) -> None:
    try:
        _ = model.members
    except json.JSONDecodeError as error:
        raise RecipeError(
            f"""--ensemble is not JSON ({error}): expected a member each, such as {{}} {{"pooling_type": "qkv"}}."""
        ) from error


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


def _check_ranges(training: SerTrainingArguments, sweep: SweepArguments) -> None:
    values = [(name, getattr(training, name)) for name in RANGES] + [("seed", seed) for seed in sweep.seeds or []]
    for name, value in values:
        least, most = RANGES[name]
        if not least <= value <= most:  # NaN is in no range
            raise RecipeError(f"--{name} {value}: expected a number from {least:g} to {most:g}.")
    if training.num_train_epochs == 0 and training.max_steps <= 0:
        raise RecipeError("--num_train_epochs 0 trains nothing.")


def _check_sweep(arguments: Arguments) -> None:
    model, data, _, sweep = arguments
    if sweep.encoders and model.encoder:
        raise RecipeError("Give either --encoder or --encoders.")
    if sweep.varies and model.model_name_or_path:
        raise RecipeError("A sweep trains new models: give --encoder or --encoders instead of --model_name_or_path.")
    if sweep.layers and model.layer_indices:
        raise RecipeError("--layers reads one layer at a time: leave --layer_indices out, or sweep something else.")
    if sweep.varies and model.unfreeze_last_n:
        raise RecipeError("A sweep trains on the states of a frozen encoder: leave --unfreeze_last_n out.")
    for plural, singular in (("layers", "layer_index"), ("poolings", "pooling_type")):
        if getattr(sweep, plural) and getattr(model, singular) is not None:
            value = getattr(model, singular)
            raise RecipeError(f"Give either --{singular} or --{plural}: --{plural} {value} takes that one only.")
    for layer in sweep.layers or []:
        if layer != "all" and not (layer.isdigit() and int(layer)):
            raise RecipeError(f"--layers {layer}: expected layers from 1, such as 3 4 5, or all.")
    if sweep.seeds and not (sweep.varies or sweep.variants) and data.protocol == "split":
        raise RecipeError("Several seeds need a --protocol that cross-validates, or a sweep: one model has one seed.")
    _check_by_pooling(sweep)
    _check_variants(sweep)
    if sweep.jobs is not None and sweep.jobs < 1:
        raise RecipeError(f"--jobs {sweep.jobs}: at least 1.")


def _check_by_pooling(sweep: SweepArguments) -> None:
    example = """such as {"qkv": {"score_activation": "tanh"}}"""
    try:
        of_poolings = json.loads(sweep.by_pooling or "{}")
    except json.JSONDecodeError as error:
        raise RecipeError(f"--by_pooling is not JSON ({error}): expected settings by pooling, {example}.") from error
    if not isinstance(of_poolings, dict) or not all(isinstance(fields, dict) for fields in of_poolings.values()):
        raise RecipeError(f"--by_pooling {sweep.by_pooling}: expected settings by pooling, {example}.")
    if absent := sorted(set(of_poolings) - set(sweep.poolings or [])):
        raise RecipeError(f"--by_pooling has settings for {', '.join(absent)}, which is not in --poolings.")
    fields = {name for fields in of_poolings.values() for name in fields}
    if unknown := sorted(fields - {*OF_THE_HEAD}):
        raise RecipeError(f"--by_pooling sets {', '.join(unknown)}; it may set {', '.join(OF_THE_HEAD)}.")


def _check_variants(sweep: SweepArguments) -> None:
    if sweep.variants is None:
        return
    example = """such as {"ours": {}, "no mixup": {"mixup": 0}}"""
    try:
        variants = json.loads(sweep.variants)
    except json.JSONDecodeError as error:
        raise RecipeError(f"--variants is not JSON ({error}): expected settings by name, {example}.") from error
    if not isinstance(variants, dict) or not variants or not all(isinstance(one, dict) for one in variants.values()):
        raise RecipeError(f"--variants {sweep.variants}: expected settings by name, {example}.")
    if sweep.varies:
        raise RecipeError("Give either --variants, or --encoders, --layers and --poolings: a sweep is of one kind.")
    allowed = {field.name for one in (ModelArguments, SerTrainingArguments) for field in fields(one) if field.init}
    for name, settings in variants.items():
        if wrong := sorted({*settings} - (allowed - {*VARIANTS_KEEP})):
            raise RecipeError(
                f"The variant {name!r} sets {', '.join(wrong)}: a variant may set what the model is and how it is "
                "trained; corpus, folds and seeds are the same for all."
            )


def _check_augmentation(training: SerTrainingArguments) -> None:
    if training.augment_copies is not None and training.augment_copies < 1:
        raise RecipeError(f"--augment_copies {training.augment_copies}: at least 1.")
