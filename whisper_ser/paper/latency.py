"""How long a model takes from waveform to logits, measured here."""

import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor
from whisper_ser.paper.cost import SAMPLING_RATE

SECONDS = 4.0
"""Length of the utterance that costs are given for."""
WARM_UPS = 2
RUNS = 9


@dataclass(frozen=True)
class Latency:
    """Median seconds from waveform to logits, and the device they were measured on."""

    seconds: float
    device: str


def measure_latency(config: WhisperSerConfig, pad_to_seconds: float | None) -> Latency:
    """Returns the median time that one utterance of `SECONDS` takes on the CPU, alone, log-mel spectrogram included.

    The weights are random: the time does not depend on them.

    Args:
        config: of the model that is measured.
        pad_to_seconds: the window it reads; `None` for the utterance alone.
    """
    model = WhisperForEmotionClassification(config).eval()
    extractor = WhisperSerFeatureExtractor(
        feature_size=config.encoder_config.num_mel_bins, pad_to_seconds=pad_to_seconds
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
