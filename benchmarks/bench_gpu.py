"""Clips a second on a GPU, ours against stock transformers, by batch size and number format.

    python benchmarks/bench_gpu.py --encoders openai/whisper-base openai/whisper-small --output gpu.json
    python benchmarks/bench_gpu.py --encoders path/to/whisper-base --device cpu --batches 1 --repeats 1  # does it run

Times run from waveforms in memory to probabilities in memory; the model's own part is shown, too, because both front
ends run on the CPU. The real-time factor is the audio's length divided by the time. The ceiling is the best rate at
which this device, in this run and number format, multiplies square matrices; the share of it is that of the model's
multiplications a second, without the front end.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperForAudioClassification
from transformers.utils import logging

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from modeling_whisper_ser.encoder_whisper_ser import even_chunks
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.inference.reference_waveform import VOICES, describe_waveform, waveform

RATE = 16000
LABELS = ["angry", "happy", "neutral", "sad"]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
WINDOW_FRAMES = 1500
"""Encoder frames of the 30 s that stock Whisper encodes."""


def main() -> None:
    arguments = parsed()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    figures = []
    ceilings = {dtype: ceiling(DTYPES[dtype], arguments) for dtype in arguments.dtypes}
    for encoder in arguments.encoders:
        for dtype in arguments.dtypes:
            models = contestants(resolve_encoder(encoder), DTYPES[dtype], arguments)
            for batch in arguments.batches:
                rows = timed(models, batch, arguments)
                for row in rows:
                    row["ceiling_share"] = row["operations"] / row["model_s"] / ceilings[dtype]
                    figures.append({"encoder": encoder, "dtype": dtype, "batch": batch, **row})
                print_rows(figures[-len(rows) :])
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine(arguments.device), "ceilings": ceilings, "figures": figures}
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput on a GPU.")
    parser.add_argument("--encoders", nargs="+", required=True, help="Whisper checkpoints in Hugging Face's layout")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    return parser.parse_args()


class Contestant:
    """A model on the device, and how many multiplications and additions it makes of a clip."""

    def __init__(self, name: str, model: Any, extractor: Any, operations: float) -> None:
        self.name, self.model, self.extractor, self.operations = name, model, extractor, operations

    def features(self, clips: list[np.ndarray]) -> Any:
        return self.extractor(clips, sampling_rate=RATE, return_tensors="pt")

    @torch.inference_mode()
    def probabilities(self, features: Any) -> torch.Tensor:
        features = features.to(self.model.device)
        features["input_features"] = features["input_features"].to(self.model.dtype)
        return self.model(**features).logits.float().softmax(-1).cpu()


def contestants(encoder: str, dtype: torch.dtype, arguments: argparse.Namespace) -> list[Contestant]:
    """Returns stock transformers, and ours up to the middle layer and with all layers."""
    stock = WhisperForAudioClassification.from_pretrained(encoder, num_labels=len(LABELS), dtype=dtype)
    config = stock.config
    found = [
        Contestant(
            "transformers, 30 s window",
            stock.eval().to(arguments.device),
            WhisperFeatureExtractor(feature_size=config.num_mel_bins),
            operations(config, config.encoder_layers, [WINDOW_FRAMES]),
        )
    ]
    for layer in (-(-config.encoder_layers // 2), config.encoder_layers):
        model = WhisperForEmotionClassification.from_encoder(encoder, LABELS, layer_index=layer).eval()
        chunks = [size for _, size in even_chunks(round(50 * arguments.seconds), model.config.chunk_frames)]
        extractor = WhisperSerFeatureExtractor(feature_size=config.num_mel_bins)
        ours = model.to(arguments.device, dtype)
        found.append(Contestant(f"ours, layer {layer}", ours, extractor, operations(config, layer, chunks)))
    return found


def operations(config: Any, layers: int, chunks: list[int]) -> float:
    """Returns the multiplications and additions in the encoder's products for one clip of these chunks."""
    width, wide, frames = config.d_model, config.encoder_ffn_dim, sum(chunks)
    convolutions = frames * (2 * 3 * config.num_mel_bins * width + 3 * width * width)
    linear = frames * layers * (4 * width * width + 2 * width * wide)
    attention = layers * sum(2 * size * size * width for size in chunks)
    return 2.0 * (convolutions + linear + attention)


def timed(models: list[Contestant], batch: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns medians over repeats in which the contestants take turns."""
    voices = np.concatenate([waveform(describe_waveform(voice, RATE)) for voice in VOICES])
    samples = round(arguments.seconds * RATE)
    endless = np.tile(voices, 1 + (samples + batch * RATE) // len(voices))
    clips = [endless[index * RATE : index * RATE + samples] for index in range(batch)]
    whole: dict[str, list[float]] = {one.name: [] for one in models}
    alone: dict[str, list[float]] = {one.name: [] for one in models}
    for repeat in range(arguments.repeats + 1):
        for one in models:
            front, features = seconds_of(lambda one=one: one.features(clips), arguments.device)
            model, _ = seconds_of(lambda one=one, f=features: one.probabilities(f), arguments.device)
            if repeat:  # the first round warms up
                whole[one.name].append(front + model)
                alone[one.name].append(model)
    rows = []
    for one in models:
        total, model = statistics.median(whole[one.name]), statistics.median(alone[one.name])
        row = {"name": one.name, "total_s": total, "model_s": model, "operations": batch * one.operations}
        rows.append({**row, "clips_per_second": batch / total, "real_time": batch * arguments.seconds / total})
    return rows


def seconds_of(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    synchronise(device)
    begin = time.perf_counter()
    result = call()
    synchronise(device)
    return time.perf_counter() - begin, result


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@torch.inference_mode()
def ceiling(dtype: torch.dtype, arguments: argparse.Namespace) -> float:
    """Returns the best rate of multiplying square matrices, in operations a second."""
    size = 8192 if arguments.device.startswith("cuda") else 1024
    a, b = (torch.randn(size, size, device=arguments.device, dtype=dtype) for _ in range(2))
    times = [seconds_of(lambda: a @ b, arguments.device)[0] for _ in range(arguments.repeats + 2)]
    return 2.0 * size**3 / min(times)


def print_rows(rows: list[dict[str, Any]]) -> None:
    stock = rows[0]
    print(f"\n{stock['encoder']}, {stock['dtype']}, batch {stock['batch']}\n")
    print("| | clips/s | real-time factor | times stock | model alone, ms | times stock | share of the ceiling |")
    print("| --- |" + " --- |" * 6)
    for row in rows:
        print(
            f"| {row['name']} | {row['clips_per_second']:.1f} | {row['real_time']:.0f} "
            f"| {stock['total_s'] / row['total_s']:.1f} | {1000 * row['model_s']:.1f} "
            f"| {stock['model_s'] / row['model_s']:.1f} | {row['ceiling_share']:.1%} |"
        )


def machine(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
