"""The model and the feature extractor that a run trains: new on an encoder, or a saved one."""

from typing import Any

from transformers.utils import logging

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.errors import RecipeError
from whisper_ser.inference.model import load_saved
from whisper_ser.training.settings import ARCHITECTURE, TRAINING_FIELDS, ModelArguments

logger = logging.get_logger(__name__)


def config_fields(arguments: ModelArguments) -> dict[str, Any]:
    """Returns the fields of `WhisperSerConfig` that the settings name."""
    values = {name: getattr(arguments, name) for name in ARCHITECTURE + TRAINING_FIELDS}
    values["ensemble"] = arguments.members
    return {name: value for name, value in values.items() if value is not None}


def build_model(
    arguments: ModelArguments, labels: list[str]
) -> tuple[WhisperForEmotionClassification, WhisperSerFeatureExtractor]:
    """Returns the model for `labels`, and the extractor that feeds it.

    Raises:
        RecipeError: the settings do not fit the saved model.
        CheckpointError, EncoderCheckpointError, ConfigError: the encoder cannot be had or cut as asked.
    """
    given = config_fields(arguments)
    if arguments.model_name_or_path is not None:
        return _saved_model(arguments.model_name_or_path, arguments.pad_to_seconds, given, labels)
    model = WhisperForEmotionClassification.from_encoder(resolve_encoder(arguments.encoder or ""), labels, **given)
    mels = model.config.encoder_config.num_mel_bins
    return model, WhisperSerFeatureExtractor(feature_size=mels, pad_to_seconds=arguments.pad_to_seconds)


def _saved_model(
    name: str, pad_to_seconds: float | None, given: dict[str, Any], labels: list[str]
) -> tuple[WhisperForEmotionClassification, WhisperSerFeatureExtractor]:
    settable = {field: value for field, value in given.items() if field in TRAINING_FIELDS}
    model, extractor = load_saved(name, **settable)
    settled = {field: (getattr(model.config, field), value) for field, value in given.items() if field in ARCHITECTURE}
    if pad_to_seconds is not None:
        settled["pad_to_seconds"] = (extractor.pad_to_seconds, pad_to_seconds)
    clashes = [f"{field} is {has}, asked for {asks}" for field, (has, asks) in settled.items() if has != asks]
    if clashes:
        raise RecipeError(f"{name} is settled: {'; '.join(clashes)}. Leave these out, or train anew from --encoder.")
    if not set(labels) <= set(model.config.labels):
        logger.warning(
            f"The labels of {name} ({', '.join(model.config.labels)}) are not those of the data "
            f"({', '.join(labels)}): starting a new classifier."
        )
        model.reset_classifier(labels)
    return model, extractor
