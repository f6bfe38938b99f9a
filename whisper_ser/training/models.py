"""The model and the feature extractor that a run trains: new on an encoder, or a saved one."""

import copy
import json
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import torch
from transformers import set_seed
from transformers.utils import logging

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor
from whisper_ser.data.licenses import head_license, inherit, read_license, store_license
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.errors import RecipeError
from whisper_ser.inference.model import load_saved
from whisper_ser.training.data import license_sources
from whisper_ser.training.settings import Arguments, ModelArguments, metadata

logger = logging.get_logger(__name__)


def build_model(
    arguments: ModelArguments, labels: list[str]
) -> tuple[WhisperForEmotionClassification, WhisperSerFeatureExtractor]:
    """Returns the model for `labels`, and the extractor that feeds it.

    Raises:
        RecipeError: the settings do not fit the saved model.
        CheckpointError, EncoderCheckpointError, ConfigError: the encoder cannot be had or cut as asked.
    """
    given = arguments.config_fields
    if arguments.model_name_or_path is not None:
        return _saved_model(arguments.model_name_or_path, arguments, labels)
    model = WhisperForEmotionClassification.from_encoder(resolve_encoder(arguments.encoder or ""), labels, **given)
    mels = model.config.encoder_config.num_mel_bins
    return model, WhisperSerFeatureExtractor(feature_size=mels, pad_to_seconds=arguments.pad_to_seconds)


def license_model(model: WhisperForEmotionClassification, arguments: Arguments, corpus: str) -> None:
    """Stores in the model's config the licence that follows from what it learns from, or that `--license` states.

    Args:
        model: as `build_model` returned it.
        corpus: its name, as its dataset has it.

    Raises:
        LicenseError: `--license` contradicts the corpus or the model that is trained on.
    """
    sources = license_sources(arguments.data, corpus)
    if base := arguments.model.model_name_or_path:
        name = Path(base).name if Path(base).is_dir() else base  # not the path on this machine
        sources = inherit(sources, read_license(model.config), name)
    store_license(model.config, head_license(sources, arguments.data.license))


def head_model(config: WhisperSerConfig, seed: int) -> WhisperForEmotionClassification:
    """Returns a new model without its encoder, for training on stored states.

    Its head is the one that `seed` gives a model with an encoder, whose random weights are drawn first.
    """
    model = WhisperForEmotionClassification(copy.deepcopy(config), with_encoder=False)
    model.load_state_dict(_draw_head(config.to_json_string(use_diff=False), seed))
    return model


@lru_cache(maxsize=8)
def _draw_head(config: str, seed: int) -> dict[str, torch.Tensor]:
    """Returns the random weights of a head. Drawing takes seconds and much memory: the folds of a setting share it."""
    set_seed(seed)
    whole = WhisperForEmotionClassification(WhisperSerConfig.from_dict(json.loads(config)))
    return {name: tensor.clone() for name, tensor in whole.state_dict().items() if ".encoder." not in name}


def _saved_model(
    name: str, arguments: ModelArguments, labels: list[str]
) -> tuple[WhisperForEmotionClassification, WhisperSerFeatureExtractor]:
    given = arguments.config_fields
    fixed = [one for one in fields(arguments) if metadata(one)["fixed"] and getattr(arguments, one.name) is not None]
    names = {one.name for one in fixed} | {"layer_index", "layer_indices"}
    model, extractor = load_saved(name, **{field: value for field, value in given.items() if field not in names})
    clashes = []
    for one in fixed:
        saved_as = metadata(one)["saved_as"] or one.name
        has = getattr(model.config if hasattr(model.config, saved_as) else extractor, saved_as)
        asked = given.get(one.name, getattr(arguments, one.name))
        if has != asked:
            clashes.append(f"{one.name} is {has}, not {asked}")
    if clashes:
        raise RecipeError(
            f"{name} has fixed these settings: {'; '.join(clashes)}. Leave them out, or train a new model with "
            "--encoder."
        )
    if not set(labels) <= set(model.config.labels):
        logger.warning(
            f"The labels of {name} ({', '.join(model.config.labels)}) are not those of the data "
            f"({', '.join(labels)}): starting a new classifier."
        )
        model.reset_classifier(labels)
    return model, extractor
