"""Speech emotion recognition on a frozen Whisper encoder, as Hugging Face models."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_whisper_ser import ConfigError, WhisperSerConfig
from .encoder_whisper_ser import EncoderCheckpointError
from .feature_extraction_whisper_ser import AudioError, WhisperSerFeatureExtractor
from .modeling_whisper_ser import MissingWeightsError, WhisperForEmotionClassification, WhisperSerModel

AutoConfig.register(WhisperSerConfig.model_type, WhisperSerConfig)
AutoModel.register(WhisperSerConfig, WhisperForEmotionClassification)
AutoModelForAudioClassification.register(WhisperSerConfig, WhisperForEmotionClassification)
AutoFeatureExtractor.register(WhisperSerConfig, WhisperSerFeatureExtractor)

__all__ = [
    "AudioError",
    "ConfigError",
    "EncoderCheckpointError",
    "MissingWeightsError",
    "WhisperForEmotionClassification",
    "WhisperSerConfig",
    "WhisperSerFeatureExtractor",
    "WhisperSerModel",
]
