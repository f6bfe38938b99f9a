"""The fastest form of a model on this machine."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers.utils import logging

from modeling_whisper_ser import PackingError, WhisperForEmotionClassification
from modeling_whisper_ser.packed_encoder_whisper_ser import PRECISIONS, check_packing

logger = logging.get_logger(__name__)

__all__ = ["PRECISIONS", "optimised"]


def optimised(
    model: WhisperForEmotionClassification,
    precision: str = "float32",
    recordings: Sequence[np.ndarray] | None = None,
) -> WhisperForEmotionClassification:
    """Returns the model in evaluation mode, packed if it runs on a CPU; the given model is not changed.

    Args:
        model: returned itself on a GPU, or if this processor or torch cannot pack float32.
        precision: `"float32"`, equal to the plain model up to rounding, or `"int8"`, faster and less accurate.
        recordings: mono waveforms `(samples,)` at 16 kHz for calibrating int8, instead of synthetic voices.

    Raises:
        PackingError: `"int8"` on a processor without AVX-512 VNNI or on a GPU; no such precision.
    """
    if precision == "float32":
        try:
            check_packing(precision)
        except PackingError as obstacle:
            logger.warning(f"The model runs unpacked: {obstacle}")
            return model.eval()
        if model.device.type != "cpu" or model.dtype != torch.float32:
            return model.eval()
    return model.packed(precision, recordings)
