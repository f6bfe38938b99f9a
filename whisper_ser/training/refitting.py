"""A temperature that costs no training speaker: fitted on held-out speakers, then given to a model trained on all."""

import copy
from typing import Any

from datasets import concatenate_datasets

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.data.splits import Split
from whisper_ser.errors import RecipeError
from whisper_ser.training.settings import Arguments
from whisper_ser.training.trainer import Inputs, Training, calibration_folder, train


def train_with_refit(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    inputs: Inputs,
    split: Split,
    arguments: Arguments,
    **options: Any,
) -> Training:
    """Returns `train`, or with `refit` two of them.

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
    held_out.output_dir = str(calibration_folder(arguments.training))
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
