"""One training with the Hugging Face Trainer: states once, epochs over them, predictions for every part."""

import contextlib
import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor
from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.audio_index import AudioRecord
from whisper_ser.data.splits import Split
from whisper_ser.errors import CheckpointError, RecipeError
from whisper_ser.evaluation.calibration import fit_temperature
from whisper_ser.evaluation.metrics import METRICS
from whisper_ser.evaluation.results import ser_metrics
from whisper_ser.io import CHECKSUMS, changed_files, saving, write_checksums
from whisper_ser.training.augmented_views import AugmentedView
from whisper_ser.training.feature_store import Features, fill
from whisper_ser.training.identity import SETTINGS, data_digest, note_settings
from whisper_ser.training.settings import Arguments, SerTrainingArguments

logger = logging.get_logger(__name__)

CHECKPOINTS, CALIBRATION = "checkpoints", "calibration"
"""Folders of an unfinished run; the second holds those of the first training of `refit`."""

BEST = {"validation": "validation_ua", "test_best": "test_wa"}
"""What each selection compares epochs by. The authors' code takes the accuracy on the test fold."""

Example = dict[str, Any]


class Inputs(NamedTuple):
    """What the model reads of every utterance, made once for all trainings.

    Attributes:
        features: encoder states.
        log_mels: where encoder layers are trained, `(mel_frames, mels)` by path: the states of the untrained encoder
            then only standardise. Else empty.
        hours: of audio.
        augmented_views: the same of each augmented view, of the utterances that train.
    """

    features: Features
    log_mels: dict[str, np.ndarray]
    hours: float
    augmented_views: tuple["Inputs", ...] = ()

    def of_layers(self, layers: Sequence[int]) -> "Inputs":
        """Returns the inputs for a model that reads some of the layers."""
        views = tuple(view.of_layers(layers) for view in self.augmented_views)
        return self._replace(features=self.features.of_layers(layers), augmented_views=views)

    def read(self, path: str) -> Example:
        """Returns what the model reads of the utterance at `path`."""
        if self.log_mels:
            return {"input_features": self.log_mels[path]}
        return {"encoder_hidden_states": self.features.read(path)}


class Examples(torch.utils.data.Dataset):
    """What the Trainer reads: inputs of the model and label, one utterance each, or one of its augmented views.

    Every epoch draws, for each utterance, either the utterance or one of its views, all equally likely. The draw
    depends on seed, epoch and utterance alone, so a resumed run draws the same.
    """

    def __init__(self, inputs: Inputs, paths: list[str], labels: list[int], seed: int = 0) -> None:
        self.inputs = inputs
        self.paths = paths
        self.labels = labels
        self.seed = seed
        # Shared with the processes of a data loader, which may live on from one epoch to the next.
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        return {**self._drawn(path).read(path), "labels": self.labels[index]}

    def _drawn(self, path: str) -> Inputs:
        views = (self.inputs, *self.inputs.augmented_views)
        if len(views) == 1:
            return self.inputs
        draw = f"{self.seed} {int(self.epoch)} {self.inputs.features.keys[path]}"
        number = int.from_bytes(hashlib.sha256(draw.encode()).digest()[:8])
        return views[number % len(views)]


class TellEpoch(TrainerCallback):
    """Sets the epoch of the training examples."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        self.examples.epoch.fill_(int(state.epoch or 0))


class Training(NamedTuple):
    """A finished training.

    Attributes:
        model: the epoch selected, with the temperature that fits its validation utterances, or 1.
        logits: of every utterance of each part, `{"validation" | "test": (utterances, num_labels)}`, not yet divided
            by the temperature.
        epochs: trained.
        seconds: spent in the Trainer since it was last started.
        history: of each epoch, its loss and the figures of the parts evaluated after it.
    """

    model: WhisperForEmotionClassification
    logits: dict[str, np.ndarray]
    epochs: float
    seconds: float
    history: list[dict[str, Any]]


def prepare_inputs(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    records: Mapping[str, AudioRecord],
    feature_dir: Path,
    layers: Sequence[int] | None = None,
    views: Sequence[AugmentedView] = (),
    trained: Collection[str] = (),
) -> Inputs:
    """Returns the inputs of all files, for `layers` or those the model reads, and of the `views` of those `trained`.

    Raises:
        FeatureStoreError: the store of encoder states in `feature_dir` cannot be written.
    """
    hours = sum(record.seconds for record in records.values()) / 3600
    features = fill(model, extractor, records, feature_dir, layers)
    originals = Inputs(features, {}, hours)
    altered = {path: records[path] for path in sorted({*trained})} if views else {}
    if model.config.unfreeze_last_n:
        # An encoder that is trained changes with every step: what can be kept is its input.
        log_mels = [_log_mels(records, extractor), *(_log_mels(altered, extractor, view) for view in views)]
        originals, *others = [originals._replace(log_mels=of_all) for of_all in log_mels]
    else:
        stored = [fill(model, extractor, altered, feature_dir, layers, view) for view in views]
        others = [originals._replace(features=features) for features in stored]
    return originals._replace(augmented_views=tuple(others))


def train_with_refit(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    inputs: Inputs,
    split: Split,
    arguments: Arguments,
    **options: Any,
) -> Training:
    """Returns `train`, or with `refit` two of them: a temperature that costs no training speaker.

    The first leaves the validation speakers out, and only its temperature is kept: the second, from the same random
    start, learns from them too. Validation figures and learning curves are those of the first.

    Raises:
        RecipeError, CheckpointError: as `train`.
    """
    if not arguments.training.refit:
        return train(model, extractor, inputs, split, arguments, **options)
    if not len(split.validation):
        raise RecipeError(
            "refit needs validation speakers for its temperature: name them or raise validation_fraction."
        )
    held_out = copy.copy(arguments.training)
    held_out.output_dir = str(Path(held_out.output_dir) / CALIBRATION)
    first = train(copy.deepcopy(model), extractor, inputs, split, arguments._replace(training=held_out), **options)
    everyone = concatenate_datasets([split.train, split.validation])
    merged = split._replace(train=everyone, validation=split.validation.select([]))
    second = train(model, extractor, inputs, merged, arguments, **options)
    second.model.config.temperature = first.model.config.temperature
    return second._replace(
        logits={**first.logits, "test": second.logits["test"]},
        seconds=first.seconds + second.seconds,
        history=first.history,
    )


def train(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    inputs: Inputs,
    split: Split,
    arguments: Arguments,
    *,
    resumable: bool = True,
    follow_test: bool = False,
) -> Training:
    """Trains `model` on `split.train` and returns it with its predictions on the other parts.

    A run that was interrupted goes on from its last checkpoint in `output_dir/checkpoints` when started again.

    Args:
        resumable: `False` writes nothing, for trainings short enough to be done again.
        follow_test: evaluates the test part after every epoch as well, for learning curves. It chooses nothing.

    Raises:
        RecipeError: `selection="validation"` without validation speakers.
        CheckpointError: `output_dir` holds an unfinished run with other settings.
    """
    settings, resume = arguments.training, None
    if settings.selection == "validation" and not len(split.validation):
        raise RecipeError("selection=validation needs validation speakers: name them or raise validation_fraction.")
    if resumable:
        with settings.main_process_first(desc="checkpoints"):
            resume = _checkpoint_to_resume(arguments, split, inputs.features.keys)
    if arguments.model.model_name_or_path is None:
        features, trained = inputs.features, split.train["path"][:]
        model.whisper_ser.fit(lambda: (features.read(path) for path in trained))
    # Validation and test utterances are never augmented.
    unaltered = inputs._replace(augmented_views=())
    examples = {name: _examples(part, unaltered, model) for name, part in zip(split._fields, split, strict=True)}
    examples["train"] = _examples(split.train, inputs, model, settings.seed)
    weigh_classes(model.config, examples["train"].labels, arguments.model.class_weighting)
    model.config.temperature = 1.0
    best = BestEpoch(BEST[settings.selection]) if settings.selection in BEST and not resumable else None
    trainer = _trainer(model, extractor, examples, settings, best, follow_test)
    if resume:
        logger.warning(f"Going on from {resume}.")
    output = trainer.train(resume_from_checkpoint=resume)
    if best:
        best.restore(model)
    others = [part for part in ("validation", "test") if len(examples[part])]
    logits = {part: np.asarray(trainer.predict(examples[part]).predictions) for part in others}
    if "validation" in logits:
        model.config.temperature = fit_temperature(logits["validation"], np.array(examples["validation"].labels))
    history = _history(trainer.state.log_history)
    return Training(model, logits, round(trainer.state.epoch or 0, 2), output.metrics["train_runtime"], history)


def _history(logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the loss of each epoch, and WA, UA and F1 of the parts that were evaluated after it."""
    epochs: dict[float, dict[str, Any]] = {}
    for entry in logged:
        epoch = epochs.setdefault(entry["epoch"], {"epoch": round(entry["epoch"], 2)})
        if "loss" in entry:
            epoch["loss"] = entry["loss"]
        for part in ("validation", "test"):
            figures = {name: entry[key] for name in ("wa", "ua", "f1") if (key := f"eval_{part}_{name}") in entry}
            if figures:
                epoch[part] = figures
    return list(epochs.values())


def _examples(part: Dataset, inputs: Inputs, model: WhisperForEmotionClassification, seed: int = 0) -> Examples:
    return Examples(inputs, part["path"][:], _targets(part, model.config.labels), seed)


def _log_mels(
    records: Mapping[str, AudioRecord], extractor: WhisperSerFeatureExtractor, view: AugmentedView | None = None
) -> dict[str, np.ndarray]:
    rate, log_mels = extractor.sampling_rate, {}
    for path, record in records.items():
        audio = view.read(view.of(record), rate) if view else read_audio(path, rate)
        log_mels[path] = extractor(audio, sampling_rate=rate, return_tensors="np")["input_features"][0]
    return log_mels


def _targets(part: Dataset, labels: list[str]) -> list[int]:
    names = part.features["emotion"].names
    return [labels.index(names[emotion]) for emotion in part["emotion"]]


def weigh_classes(config: WhisperSerConfig, labels: list[int], weighting: str) -> None:
    """Sets the class weights or priors of the loss from `labels`, the indices of the training part.

    `balanced`: weights inverse to the frequency of each class, 1 on average over the utterances. `logit_adjustment`:
    their frequencies; an absent class counts as one utterance, since the logarithm of zero is infinite.
    """
    config.class_weights = config.class_priors = None
    counts = np.bincount(labels, minlength=len(config.labels))
    if weighting == "balanced":
        present = np.count_nonzero(counts)
        config.class_weights = [float(len(labels) / (present * count)) if count else 0.0 for count in counts]
    elif weighting == "logit_adjustment":
        seen = np.maximum(counts, 1)
        config.class_priors = [float(count / seen.sum()) for count in seen]


class BestEpoch(TrainerCallback):
    """Keeps the weights of the epoch with the highest `metric` in memory."""

    def __init__(self, metric: str) -> None:
        self.metric = f"eval_{metric}"
        self.highest = -1.0
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        value = context["metrics"].get(self.metric, -1.0)
        if value > self.highest:
            self.highest = value
            model = context["model"]
            self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def restore(self, model: torch.nn.Module) -> None:
        """Loads the weights kept into `model`."""
        model.load_state_dict(self.weights, strict=False)


class SerTrainer(Trainer):
    """The Hugging Face Trainer; a checkpoint that cannot be written is a `CheckpointError`."""

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        with saving(str(self.args.output_dir)):
            super()._save_checkpoint(*arguments, **options)


class SealCheckpoints(TrainerCallback):
    """Notes the checksums of each checkpoint, and removes older ones only then.

    Args:
        limit: checkpoints kept besides the best; `None` keeps all.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit

    def on_save(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        # Every process writes the state of its own random numbers.
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        write_checksums(folder / f"checkpoint-{state.global_step}")
        for checkpoint in _saved(folder)[: -self.limit] if self.limit else []:
            if checkpoint.name != Path(state.best_model_checkpoint or "").name:
                shutil.rmtree(checkpoint, ignore_errors=True)


def _trainer(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    examples: dict[str, Examples],
    arguments: SerTrainingArguments,
    best: BestEpoch | None,
    follow_test: bool,
) -> SerTrainer:
    evaluated = {name: examples[name] for name in ("validation", "test") if len(examples[name])}
    if not follow_test and arguments.selection != "test_best":
        del evaluated["test"]
    arguments = copy.copy(arguments)
    arguments.output_dir = str(Path(arguments.output_dir) / CHECKPOINTS)
    arguments.remove_unused_columns = False
    arguments.label_names = ["labels"]
    # One process, one device: packed states are no batch that torch could split over several. torchrun uses them all.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    if not evaluated:
        arguments.eval_strategy = IntervalStrategy.NO
    limit, arguments.save_total_limit = arguments.save_total_limit, None
    if arguments.selection in BEST and best is None:
        arguments.load_best_model_at_end = True
        arguments.metric_for_best_model = BEST[arguments.selection]
        arguments.greater_is_better = True
    trainer = SerTrainer(
        model=model,
        args=arguments,
        train_dataset=examples["train"],
        eval_dataset=evaluated or None,
        data_collator=_collator(extractor),
        compute_metrics=_metrics,
        callbacks=[TellEpoch(examples["train"]), best or SealCheckpoints(limit)],
    )
    if arguments.disable_tqdm:
        # What the Trainer puts in the place of its bar prints every log.
        trainer.remove_callback(PrinterCallback)
    return trainer


def _collator(extractor: WhisperSerFeatureExtractor) -> Callable[[list[Example]], dict[str, torch.Tensor]]:
    """Returns the function that makes a batch of examples: log-mel is padded, states are packed."""

    def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([example["labels"] for example in examples])
        if "input_features" in examples[0]:
            features = {"input_features": [example["input_features"] for example in examples]}
            return {**extractor.pad(features, padding=True, return_tensors="pt"), "labels": labels}
        states = [example["encoder_hidden_states"] for example in examples]
        counts = [state.shape[1] for state in states]
        packed = torch.empty(states[0].shape[0], sum(counts), states[0].shape[2])
        for place, state in zip(packed.split(counts, dim=1), states, strict=True):
            place.copy_(state)
        # The Trainer counts the examples of a batch by the first tensor that it finds.
        return {"labels": labels, "encoder_hidden_states": packed, "encoder_frame_counts": torch.tensor(counts)}

    return collate


def _metrics(prediction: EvalPrediction) -> dict[str, float]:
    predicted = np.asarray(prediction.predictions).argmax(-1)
    found = ser_metrics().compute(references=np.asarray(prediction.label_ids), predictions=predicted)
    return {name: found[name] for name in METRICS}


def _checkpoint_to_resume(arguments: Arguments, split: Split, sample_hashes: Mapping[str, str]) -> str | None:
    """Returns the last checkpoint of an interrupted run with the same settings, and notes the settings of this one."""
    training_arguments = arguments.training
    if asked := training_arguments.resume_from_checkpoint:
        if (Path(asked) / CHECKSUMS).is_file() and (changed := changed_files(Path(asked))):
            raise CheckpointError(f"{asked} is damaged ({', '.join(changed)}): name another checkpoint.")
        return asked
    folder = Path(training_arguments.output_dir) / CHECKPOINTS
    if _saved(folder) and not (folder / SETTINGS).is_file():
        raise CheckpointError(
            f"{folder} holds checkpoints of another program. Choose another --output_dir, or name the checkpoint to "
            "go on from with --resume_from_checkpoint."
        )
    note_settings(folder, arguments, {"recordings, labels and parts": data_digest(split, sample_hashes)[:16]})
    return _last_whole_checkpoint(folder)


def _saved(folder: Path) -> list[Path]:
    """Returns the Trainer's checkpoints, oldest first."""
    numbered = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    return sorted((path for path, number in numbered.items() if number.isdigit()), key=lambda p: int(numbered[p]))


def _last_whole_checkpoint(folder: Path) -> str | None:
    """Returns the newest undamaged checkpoint whose best checkpoint is undamaged too; removes the others."""
    whole = []
    for checkpoint in _saved(folder):
        if changed := changed_files(checkpoint):
            logger.warning(f"{checkpoint} is damaged, or was not written to its end ({', '.join(changed)}): removed.")
            shutil.rmtree(checkpoint, ignore_errors=True)
        else:
            whole.append(checkpoint)
    for checkpoint in reversed(whole):
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        best = state["best_model_checkpoint"]
        if best is None or Path(best).name in {other.name for other in whole}:
            return str(checkpoint)
        logger.warning(f"{checkpoint} is removed: the checkpoint of the best epoch is lost.")
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def remove_checkpoints(output_dir: Path) -> None:
    """Removes what only an interrupted run needs, and nothing else that may lie there."""
    for folder in (output_dir / CALIBRATION / CHECKPOINTS, output_dir / CALIBRATION, output_dir / CHECKPOINTS):
        for checkpoint in _saved(folder):
            shutil.rmtree(checkpoint, ignore_errors=True)
        (folder / SETTINGS).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
