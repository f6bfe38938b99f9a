"""One training with the Hugging Face Trainer: states once, epochs over them, predictions for every part."""

import contextlib
import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import EvalPrediction, PrinterCallback, Trainer
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.arguments import Arguments, SerTrainingArguments
from whisper_ser.audio import read_audio
from whisper_ser.corpora.check import check_audio
from whisper_ser.errors import CheckpointError, RecipeError
from whisper_ser.evaluation import scores
from whisper_ser.features import encoder_states
from whisper_ser.files import replacing
from whisper_ser.protocols import Split

logger = logging.get_logger(__name__)

SETTINGS_THAT_MATTER = (
    "selection",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "max_grad_norm",
    "seed",
    "data_seed",
)
"""Training arguments that change the numbers: a run is only resumed under the same."""

SETTINGS = "settings.json"
"""Notes the settings of an unfinished run, beside what it has finished."""

Example = dict[str, Any]


class Examples(torch.utils.data.Dataset):
    """What the Trainer reads: inputs of the model and label, one utterance each."""

    def __init__(self, inputs: list[Example], labels: list[int]) -> None:
        self.inputs = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {**self.inputs[index], "labels": self.labels[index]}


class Inputs(NamedTuple):
    """What the model reads of every utterance, made once for all folds.

    Attributes:
        states: encoder states `(layers, frames, width)` by path.
        log_mels: `(mel_frames, mels)` by path where encoder layers are trained, else empty.
        hours: of audio.
    """

    states: dict[str, torch.Tensor]
    log_mels: dict[str, np.ndarray]
    hours: float


class Training(NamedTuple):
    """A finished training.

    Attributes:
        model: the epoch selected.
        logits: of every utterance of each part, `{"validation" | "test": (utterances, num_labels)}`.
        epochs: trained.
        seconds: spent in the Trainer since it was last started.
    """

    model: WhisperForEmotionClassification
    logits: dict[str, np.ndarray]
    epochs: float
    seconds: float


def prepare_inputs(
    model: WhisperForEmotionClassification, extractor: WhisperSerFeatureExtractor, paths: list[str]
) -> Inputs:
    """Returns the inputs of all files, each heard once.

    Raises:
        CorpusError: audio that cannot be used, all of it listed.
    """
    seconds = check_audio(paths)
    states = dict(zip(paths, encoder_states(model, extractor, paths, seconds), strict=True))
    # An encoder that is trained changes with every step: what can be kept is its input.
    log_mels = {path: _log_mel(path, extractor) for path in paths} if model.config.unfreeze_last_n else {}
    return Inputs(states, log_mels, sum(seconds) / 3600)


def train(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    inputs: Inputs,
    split: Split,
    arguments: Arguments,
) -> Training:
    """Trains `model` on `split.train` and returns it with its predictions on the other parts.

    A run that was interrupted goes on from its last checkpoint in `output_dir/checkpoints` when started again.

    Raises:
        RecipeError: `selection="validation"` without validation speakers.
        CheckpointError: `output_dir` holds an unfinished run with other settings.
    """
    model_arguments, _, training_arguments = arguments
    if training_arguments.selection == "validation" and not len(split.validation):
        raise RecipeError("selection=validation needs validation speakers: name them or raise validation_fraction.")
    with training_arguments.main_process_first(desc="checkpoints"):
        resume = _checkpoint_to_resume(arguments)
    if model_arguments.model_name_or_path is None and model.config.channel_standardisation:
        model.whisper_ser.standardisation.fit(inputs.states[path] for path in split.train["path"])
    examples = {name: _examples(part, inputs, model) for name, part in zip(split._fields, split, strict=True)}
    model.config.class_weights = _class_weights(
        examples["train"].labels, len(model.config.labels), model_arguments.class_weighting
    )
    trainer = _trainer(model, extractor, examples, training_arguments)
    if resume:
        logger.warning(f"Going on from {resume}.")
    output = trainer.train(resume_from_checkpoint=resume)
    logits = {
        part: np.asarray(trainer.predict(examples[part]).predictions)
        for part in ("validation", "test")
        if len(examples[part])
    }
    return Training(model, logits, round(trainer.state.epoch or 0, 2), output.metrics["train_runtime"])


def _examples(part: Dataset, inputs: Inputs, model: WhisperForEmotionClassification) -> Examples:
    if inputs.log_mels:
        of_model: list[Example] = [{"input_features": inputs.log_mels[path]} for path in part["path"]]
    else:
        of_model = [{"encoder_hidden_states": inputs.states[path]} for path in part["path"]]
    return Examples(of_model, _targets(part, model.config.labels))


def _log_mel(path: str, extractor: WhisperSerFeatureExtractor) -> np.ndarray:
    audio = read_audio(path, extractor.sampling_rate)
    return extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="np")["input_features"][0]


def _targets(part: Dataset, labels: list[str]) -> list[int]:
    names = part.features["emotion"].names
    return [labels.index(names[emotion]) for emotion in part["emotion"]]


def _class_weights(labels: list[int], num_labels: int, weighting: str) -> list[float] | None:
    """Returns weights inverse to the frequency of each class, 1 on average over the utterances."""
    if weighting == "none":
        return None
    counts = np.bincount(labels, minlength=num_labels)
    return [float(len(labels) / (np.count_nonzero(counts) * count)) if count else 0.0 for count in counts]


def _trainer(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    examples: dict[str, Examples],
    arguments: SerTrainingArguments,
) -> Trainer:
    has_validation = len(examples["validation"]) > 0
    arguments = copy.copy(arguments)
    arguments.output_dir = str(_checkpoints(arguments))
    arguments.remove_unused_columns = False
    arguments.label_names = ["labels"]
    if not has_validation:
        arguments.eval_strategy = IntervalStrategy.NO
    if arguments.selection == "validation":
        arguments.load_best_model_at_end = True
        arguments.metric_for_best_model = "ua"
        arguments.greater_is_better = True
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=examples["train"],
        eval_dataset=examples["validation"] if has_validation else None,
        data_collator=_collator(extractor),
        compute_metrics=_metrics,
    )
    if arguments.disable_tqdm:
        # What the Trainer puts in the place of its bar prints every log.
        trainer.remove_callback(PrinterCallback)
    return trainer


def _collator(extractor: WhisperSerFeatureExtractor) -> Callable[[list[Example]], dict[str, torch.Tensor]]:
    """Returns the function that pads examples, of either entrance of the model, to a batch."""

    def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([example["labels"] for example in examples])
        if "input_features" in examples[0]:
            features = {"input_features": [example["input_features"] for example in examples]}
            return {**extractor.pad(features, padding=True, return_tensors="pt"), "labels": labels}
        states = [example["encoder_hidden_states"].transpose(0, 1) for example in examples]
        lengths = torch.tensor([len(state) for state in states])
        padded = pad_sequence(states, batch_first=True)
        return {
            "encoder_hidden_states": padded.transpose(1, 2),
            "encoder_attention_mask": torch.arange(padded.shape[1]) < lengths[:, None],
            "labels": labels,
        }

    return collate


def _metrics(prediction: EvalPrediction) -> dict[str, float]:
    return scores(np.asarray(prediction.label_ids), np.asarray(prediction.predictions).argmax(-1))


def _checkpoints(arguments: SerTrainingArguments) -> Path:
    return Path(arguments.output_dir) / "checkpoints"


def _checkpoint_to_resume(arguments: Arguments) -> str | None:
    """Returns the last checkpoint of an interrupted run with the same settings, and notes the settings of this one."""
    training_arguments = arguments[2]
    if training_arguments.resume_from_checkpoint:
        return training_arguments.resume_from_checkpoint
    folder = _checkpoints(training_arguments)
    if _saved(folder) and not (folder / SETTINGS).is_file():
        raise CheckpointError(
            f"{folder} holds checkpoints of another program. Choose another --output_dir, or name the checkpoint to "
            "go on from with --resume_from_checkpoint."
        )
    note_settings(folder, arguments)
    return _last_whole_checkpoint(folder)


def note_settings(folder: Path, arguments: Arguments) -> None:
    """Writes the settings of an unfinished run into `folder`, or compares them with those that are there.

    Raises:
        CheckpointError: they are others.
    """
    model_arguments, data_arguments, training_arguments = arguments
    settings = {
        "model": asdict(model_arguments),
        "data": asdict(data_arguments),
        "training": {name: getattr(training_arguments, name) for name in SETTINGS_THAT_MATTER},
    }
    settings = json.loads(json.dumps(settings, default=str))
    noted = folder / SETTINGS
    if noted.is_file():
        _refuse_other_settings(json.loads(noted.read_text(encoding="utf-8")), settings, folder)
    else:
        with replacing(noted) as path:
            path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _saved(folder: Path) -> list[Path]:
    """Returns the Trainer's checkpoints, oldest first."""
    numbered = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    return sorted((path for path, number in numbered.items() if number.isdigit()), key=lambda p: int(numbered[p]))


def _last_whole_checkpoint(folder: Path) -> str | None:
    """Returns the newest checkpoint that was written to its end, and removes newer ones that were not."""
    for checkpoint in reversed(_saved(folder)):
        try:
            # The Trainer writes this file last.
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning(f"{checkpoint} was not written to its end and is removed.")
            shutil.rmtree(checkpoint, ignore_errors=True)
        else:
            return str(checkpoint)
    return None


def _refuse_other_settings(noted: dict[str, dict], settings: dict[str, dict], folder: Path) -> None:
    changed = [
        f"{name} was {noted.get(group, {}).get(name)}, is now {value}"
        for group, fields in settings.items()
        for name, value in fields.items()
        if noted.get(group, {}).get(name) != value
    ]
    if changed:
        raise CheckpointError(
            f"{folder} holds an unfinished run with other settings ({'; '.join(changed)}). Start it again with its "
            "own settings to finish it, choose another --output_dir, or delete that folder."
        )


def remove_checkpoints(output_dir: Path) -> None:
    """Removes what only an interrupted run needs, and nothing else that may lie there."""
    folder = output_dir / "checkpoints"
    for checkpoint in _saved(folder):
        shutil.rmtree(checkpoint, ignore_errors=True)
    (folder / SETTINGS).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
