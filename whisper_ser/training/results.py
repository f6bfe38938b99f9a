"""The result of a finished training: its predictions and metrics."""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
import transformers
from datasets import Dataset
from transformers import WhisperConfig

from modeling_whisper_ser import WhisperSerConfig, WhisperSerFeatureExtractor
from whisper_ser import __version__
from whisper_ser.data.splits import Fold
from whisper_ser.evaluation.results import (
    Corpus,
    Epoch,
    FoldResult,
    Model,
    Protocol,
    RunResult,
    TrainingFacts,
    score,
    statistics_of,
    write_result,
)
from whisper_ser.training.settings import Arguments
from whisper_ser.training.trainer import Training, remove_checkpoints


def write_fold(folder: Path, result: RunResult, predictions: pandas.DataFrame) -> None:
    """Writes `metrics.json` and `predictions.parquet` of one fold, and removes its checkpoints."""
    write_result(folder, result, predictions)
    remove_checkpoints(folder)


def all_predictions(training: Training, fold: Fold) -> pandas.DataFrame:
    """Returns the predictions of the validation and the test part."""
    model = training.model.config
    return pandas.concat(
        [
            predictions_table(name, getattr(fold.split, name), logits / model.temperature, model.labels)
            for name, logits in training.logits.items()
        ]
    )


def predictions_table(part: str, utterances: Dataset, logits: np.ndarray, labels: list[str]) -> pandas.DataFrame:
    """Returns a row for each utterance: its columns in the corpus, the prediction, and each label's probability."""
    probabilities = torch.from_numpy(logits).float().softmax(-1).numpy()
    names = utterances.features["emotion"].names
    table = pandas.DataFrame(
        {
            "part": part,
            "path": list(utterances["path"]),
            "speaker": list(utterances["speaker"]),
            "gender": list(utterances["gender"]),
            "emotion": [names[emotion] for emotion in utterances["emotion"]],
            "predicted": [labels[index] for index in probabilities.argmax(-1)],
        }
    )
    return table.assign(**{f"probability_{label}": probabilities[:, i] for i, label in enumerate(labels)})


def run_result(
    training: Training,
    predictions: pandas.DataFrame,
    fold: Fold,
    arguments: Arguments,
    extractor: WhisperSerFeatureExtractor,
    hours: float,
    identity: str | None = None,
) -> RunResult:
    """Returns the result of one training on one fold.

    Args:
        predictions: as `all_predictions` returned them.
        hours: of all audio.
        identity: hash of everything that the result depends on.
    """
    settings, config, split = arguments.training, training.model.config, fold.split
    parts = {part: score(rows, config.labels, config.temperature) for part, rows in predictions.groupby("part")}
    speakers = {name: sorted(set(part["speaker"])) for name, part in zip(split._fields, split, strict=True)}
    info = split.train.info
    base = arguments.model.model_name_or_path or arguments.model.encoder or ""
    return RunResult(
        labels=config.labels,
        test=parts["test"],
        deviations=None,
        pooled=None,
        **statistics_of(predictions[predictions["part"] == "test"], config.labels),
        corpus=Corpus(
            name=info.dataset_name,
            description=info.description,
            languages=sorted({language for part in split for language in part["language"]} - {""}),
            license=info.license,
            homepage=info.homepage,
            citation=info.citation,
            utterances=sum(map(len, split)),
            speakers=len(set().union(*speakers.values()) - {""}),
            hours=round(hours, 3),
        ),
        protocol=Protocol(
            name=arguments.data.protocol,
            selection=settings.selection,
            refit=settings.refit,
            seeds=[settings.seed],
            folds=[fold.name],
        ),
        model=Model(
            base=Path(base).name if Path(base).is_dir() else base,
            on_hub=not Path(base).is_dir(),
            pad_to_seconds=extractor.pad_to_seconds,
            config=config_fields(config),
        ),
        training=TrainingFacts(
            epochs=training.epochs,
            batch_size=settings.train_batch_size * settings.gradient_accumulation_steps * settings.world_size,
            learning_rate=settings.learning_rate,
            seconds=round(training.seconds, 1),
            processes=settings.world_size,
            device=_device(settings.device),
        ),
        folds=[
            FoldResult(
                name=fold.name,
                seed=settings.seed,
                test=parts["test"],
                validation=parts.get("validation"),
                temperature=config.temperature,
                **{f"{part}_speakers": names for part, names in speakers.items()},
                history=[Epoch(**epoch) for epoch in training.history],
            )
        ],
        versions={
            "whisper-ser": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        identity=identity,
    )


def config_fields(config: WhisperSerConfig) -> dict[str, Any]:
    """Returns the fields that make the config of a like model; of the encoder only those that are not defaults."""
    saved = json.loads(config.to_json_string())
    usual = json.loads(WhisperConfig().to_json_string(use_diff=False))
    encoder = {name: value for name, value in saved["encoder_config"].items() if value != usual.get(name)}
    fields = {name: saved[name] for name in ("id2label", *WhisperSerConfig.__annotations__) if name in saved}
    return {**fields, "encoder_config": encoder}


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
