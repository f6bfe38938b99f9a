"""How long a model takes from waveform to logits, measured here."""

import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor
from whisper_ser.report.cost import SAMPLING_RATE

SECONDS = 4.0
"""Length of the utterance that costs are given for."""
WARM_UPS = 2
RUNS = 9


@dataclass(frozen=True)
class Latency:
    """Median seconds from waveform to logits, and the device they were measured on."""

    seconds: float
    device: str


def measure_latency(
    encoder_config: Mapping[str, Any], layer: int, pooling: str, labels: Sequence[str], protocol: Mapping[str, Any]
) -> Latency:
    """Returns the median time that one utterance of `SECONDS` takes on the CPU, alone, log-mel spectrogram included.

    The weights are random: the time does not depend on them.

    Args:
        encoder_config: of the whole checkpoint, as `WhisperConfig.to_dict()` gives it.
        layer, pooling: of the model that is measured.
        labels: of its classifier.
        protocol: with `chunk_seconds`, `pad_to_seconds` and `channel_standardisation`.
    """
    config = WhisperSerConfig(
        encoder_config=dict(encoder_config),  # type: ignore[arg-type]
        layer_index=layer,
        pooling_type=pooling,
        chunk_seconds=protocol["chunk_seconds"],
        channel_standardisation=protocol["channel_standardisation"],
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = WhisperForEmotionClassification(config).eval()
    extractor = WhisperSerFeatureExtractor(
        feature_size=encoder_config["num_mel_bins"], pad_to_seconds=protocol["pad_to_seconds"]
    )
    noise = np.random.default_rng(0).standard_normal(round(SECONDS * SAMPLING_RATE))
    waveform = (0.1 * noise).astype(np.float32)
    seconds = []
    for _ in range(WARM_UPS + RUNS):
        start = time.perf_counter()
        with torch.inference_mode():
            model(**extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt"))
        seconds.append(time.perf_counter() - start)
    return Latency(statistics.median(seconds[WARM_UPS:]), _device())


def _device() -> str:
    threads = torch.get_num_threads()
    return f"{processor_name()}, {threads} thread{'' if threads == 1 else 's'}"


def processor_name() -> str:
    """Returns what the processor calls itself, or its architecture where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or f"{platform.machine()} CPU"
