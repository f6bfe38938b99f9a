"""Saved models read with the classes of this package: settings and safetensors, no code and no pickles."""

import os
from pathlib import Path
from typing import Any

from modeling_whisper_ser import ConfigError, MissingWeightsError, WhisperForEmotionClassification, WhisperSerConfig
from modeling_whisper_ser.feature_extraction_whisper_ser import WhisperSerFeatureExtractor
from whisper_ser.errors import CheckpointError, InferenceError, WhisperSerError
from whisper_ser.known_answer import check_as_saved

TOLD_IN_WORDS = (WhisperSerError, ConfigError, MissingWeightsError, OSError)


def load_saved(
    name_or_path: str | os.PathLike, **fields: Any
) -> tuple[WhisperForEmotionClassification, WhisperSerFeatureExtractor]:
    """Returns the model saved in a folder or on the Hub, and the extractor that feeds it.

    Where a folder has a known answer, its weights and settings must be those that were saved with it.

    Args:
        name_or_path: a folder that training wrote, or a Hub id.
        **fields: of `WhisperSerConfig` that are set anew.

    Raises:
        InferenceError: the model is of another kind.
        KnownAnswerError: weights or settings are not those that were saved.
        CheckpointError: a file is damaged.
        ConfigError, MissingWeightsError, OSError: settings that cannot work, weights that are missing, nothing there.
    """
    name = os.path.expanduser(os.fspath(name_or_path))
    try:
        kind = WhisperSerConfig.get_config_dict(name)[0].get("model_type")
        if kind != WhisperSerConfig.model_type:
            raise InferenceError(
                f"{name} is a {kind!r} model, expected {WhisperSerConfig.model_type!r}: give a model that "
                "run_train.py wrote, or its Hub id."
            )
        if Path(name).is_dir():
            check_as_saved(Path(name))
        model = WhisperForEmotionClassification.from_pretrained(name, **fields)
        return model, WhisperSerFeatureExtractor.from_pretrained(name)
    except TOLD_IN_WORDS:
        raise
    except Exception as error:  # damaged JSON and weights fail in as many types as there are libraries that read them
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"{name} cannot be loaded, a file of it is damaged or of something else ({type(error).__name__}: "
            f"{reason}). Fetch or save the model again."
        ) from error
