"""Who takes part in `bench_latency.py`: ours, stock transformers, ONNX Runtime, CTranslate2; and products of matrices.

Rivals have what they gain from: as many threads, all graph optimisations, their weights packed. "spoken" are the
chunks of spoken frames that ours encodes, to the same lengths; "window" is the 30 s that stock Whisper wants. ONNX
Runtime runs what `whisper-ser export onnx` writes, waveform to probabilities. CTranslate2 gets our log-mel and stops
at the encoder's states; it has no cut encoder, and is compared on all layers of tiny.en, whose file it reads.
transformers hears the first 30 s of longer audio, the others all of it.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modeling_whisper_ser.packed_encoder_whisper_ser import Scale, _FloatProduct, _IntegerProduct, typical_voices
from torch import nn
from transformers import WhisperFeatureExtractor, WhisperForAudioClassification
from whisper_ser.inference.speed import optimised

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from modeling_whisper_ser.encoder_whisper_ser import WhisperSerEncoder, even_chunks
from whisper_ser.demo.encoder import DEMO_ENCODER, demo_ctranslate2_folder, resolve_encoder
from whisper_ser.inference.model import Recognizer

RATE = 16000
WINDOW_SECONDS = 30
LABELS = ["angry", "happy", "neutral", "sad"]
PRODUCTS = "products"
KINDS = ("float32", "float32 plain", "int8")
Clips = list[np.ndarray]
Run = Callable[[Clips], Any]


@dataclass(frozen=True)
class Contestant:
    """One way to answer.

    Args:
        task: the encoder and its layers; `PRODUCTS`.
        name: who it is.
        build: returns a function from waveforms `(samples,)` to whatever it gives.
        prepare: writes the files that `build` reads.
        operations: of one call, where known.
    """

    task: str
    name: str
    build: Callable[[], Run]
    prepare: Callable[[], None] | None = None
    operations: float | None = None


def entrants(encoder: str, layer: int, threads: int, scratch: Path) -> list[Contestant]:
    """Returns who takes part; nothing is loaded yet.

    Args:
        encoder: Whisper in Hugging Face's layout.
        layer: where the cut encoder ends.
        threads: of rivals that do not go by torch's.
        scratch: folder for exported files.
    """
    name = Path(resolve_encoder(encoder)).name
    return [
        *with_stock(f"{name}, layer {layer}", encoder, layer, threads, scratch),
        *with_stock(f"{name}, all layers", encoder, None, threads, scratch),
        *with_ctranslate2("tiny.en, all layers", threads, scratch),
    ]


def with_stock(task: str, encoder: str, layer: int | None, threads: int, scratch: Path) -> list[Contestant]:
    return [
        Contestant(task, "transformers window", lambda: stock(encoder)),
        *own(task, encoder, layer),
        *exported(task, encoder, layer, threads, scratch),
    ]


def with_ctranslate2(task: str, threads: int, scratch: Path) -> list[Contestant]:
    found = [*own(task, DEMO_ENCODER, None), *exported(task, DEMO_ENCODER, None, threads, scratch)]
    for precision, frames in itertools.product(("float32", "int8"), ("spoken", "window")):
        name = f"ctranslate2 {precision} {frames}"
        found.append(Contestant(task, name, lambda p=precision, f=frames: ctranslate2(p, f, threads)))
    return found


def exported(task: str, encoder: str, layer: int | None, threads: int, scratch: Path) -> list[Contestant]:
    found = []
    for precision, frames in itertools.product(("float32", "int8"), ("spoken", "window")):
        file = scratch / f"{task}, {precision} {frames}.onnx"
        found.append(
            Contestant(
                task,
                f"onnxruntime {precision} {frames}",
                lambda f=file, window=frames == "window": onnxruntime(f, window, threads),
                lambda f=file, p=precision, window=frames == "window": export(encoder, layer, p, window, f),
            )
        )
    return found


def own(task: str, encoder: str, layer: int | None) -> list[Contestant]:
    return [
        Contestant(task, f"ours {precision}", lambda p=precision: ours(encoder, layer, p))
        for precision in ("plain", "float32", "int8")
    ]


def cut_model(encoder: str, layer: int | None, **fields: Any) -> WhisperForEmotionClassification:
    """Returns a model up to `layer`, all layers by default, with a head of random weights."""
    torch.manual_seed(0)
    folder = resolve_encoder(encoder)
    if layer is None:
        layer = WhisperForEmotionClassification.from_encoder(folder, LABELS).config.encoder_config.encoder_layers
    return WhisperForEmotionClassification.from_encoder(folder, LABELS, layer_index=layer, **fields).eval()


def ours(encoder: str, layer: int | None, precision: str) -> Run:
    plain = cut_model(encoder, layer)
    model = plain if precision == "plain" else optimised(plain, precision)
    extractor = WhisperSerFeatureExtractor(feature_size=model.config.encoder_config.num_mel_bins)

    @torch.inference_mode()
    def run(clips: Clips) -> torch.Tensor:
        features = extractor(clips, sampling_rate=RATE, return_tensors="pt")
        return model(**features).logits.softmax(-1)

    return run


def stock(encoder: str) -> Run:
    model = WhisperForAudioClassification.from_pretrained(encoder, num_labels=len(LABELS), dtype=torch.float32).eval()
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)

    @torch.inference_mode()
    def run(clips: Clips) -> torch.Tensor:
        features = extractor(clips, sampling_rate=RATE, return_tensors="pt")
        return model(**features).logits.softmax(-1)

    return run


def export(encoder: str, layer: int | None, precision: str, window: bool, file: Path) -> None:
    from whisper_ser.export.onnx import export_onnx

    model = cut_model(encoder, layer, **({"chunk_seconds": WINDOW_SECONDS} if window else {}))
    mels = model.config.encoder_config.num_mel_bins
    extractor = WhisperSerFeatureExtractor(feature_size=mels, pad_to_seconds=WINDOW_SECONDS if window else None)
    export_onnx(Recognizer(model, extractor), file, precision)


def onnxruntime(file: Path, window: bool, threads: int) -> Run:
    from whisper_ser.inference.engines.onnx_runtime import OnnxModel

    model = OnnxModel(file, threads)
    return lambda clips: model.probabilities(windows(clips) if window else clips)


def ctranslate2(precision: str, frames: str, threads: int) -> Run:
    import ctranslate2 as engine

    # Its threads and torch's are both OpenMP's. More of them than cores, and all wait without a core, and wake slowly.
    torch.set_num_threads(1)
    whisper = engine.models.Whisper(
        str(demo_ctranslate2_folder()), device="cpu", compute_type=precision, intra_threads=threads
    )
    model = cut_model(DEMO_ENCODER, None)

    def states(mels: np.ndarray) -> np.ndarray:
        mels = np.ascontiguousarray(mels.transpose(0, 2, 1))
        return np.asarray(whisper.encode(engine.StorageView.from_array(mels)))

    agree(states, model.whisper_ser.encoder, precision)
    return in_equal_chunks(model, frames, states)


def agree(states: Callable[[np.ndarray], np.ndarray], encoder: WhisperSerEncoder, precision: str) -> None:
    """Raises if a rival computes something else than our plain encoder."""
    extractor = WhisperSerFeatureExtractor(feature_size=encoder.conv1.in_channels)
    features = extractor(typical_voices(RATE)[0], return_tensors="pt")
    with torch.inference_mode():
        expected = encoder(**features)[0][0, 0].numpy()
    difference = np.linalg.norm(states(features["input_features"].numpy())[0] - expected) / np.linalg.norm(expected)
    if difference > (0.001 if precision == "float32" else 0.25):
        raise RuntimeError(f"A rival's states are off by {difference:.1%}: the comparison would be unfair.")


def in_equal_chunks(
    model: WhisperForEmotionClassification, frames: str, states: Callable[[np.ndarray], np.ndarray]
) -> Run:
    """Returns a function that encodes what ours does: rivals have no mask, and get chunks of one length together."""
    mels = model.config.encoder_config.num_mel_bins
    window = frames == "window"
    longest = WINDOW_SECONDS * 50 if window else model.config.chunk_frames
    extractor = WhisperSerFeatureExtractor(feature_size=mels, pad_to_seconds=WINDOW_SECONDS if window else None)

    def run(clips: Clips) -> list[np.ndarray]:
        features = extractor(windows(clips) if window else clips, sampling_rate=RATE, return_tensors="np")
        lengths = features["attention_mask"].sum(1)
        chunks = [
            clip[2 * start : 2 * (start + size)][:length]
            for clip, length in zip(features["input_features"], lengths, strict=True)
            for start, size in even_chunks(-(-int(length) // 2), longest)
        ]
        chunks.sort(key=len)
        return [states(np.stack(list(group))) for _, group in itertools.groupby(chunks, key=len)]

    return run


def windows(clips: Clips) -> Clips:
    """Returns the clips cut every 30 s."""
    step = WINDOW_SECONDS * RATE
    return [clip[begin : begin + step] for clip in clips for begin in range(0, len(clip), step)]


def recordings(seconds: float, batch: int) -> Clips:
    """Returns voice-like waveforms, no two alike."""
    voices = np.concatenate(typical_voices(RATE))
    samples = round(seconds * RATE)
    endless = np.tile(voices, -(-(samples + batch * RATE) // len(voices)))
    return [endless[index * RATE : index * RATE + samples] for index in range(batch)]


def products() -> list[Contestant]:
    """Returns products of matrices, packed and plain, of which the best of a precision is what the floor goes by."""
    found = []
    for rows, inner, outer in ((200, 512, 2048), (1600, 512, 2048), (1600, 2048, 512)):
        operations, shape = 2.0 * rows * inner * outer, f"{rows}x{inner}x{outer}"
        for kind in KINDS if torch.cpu._is_vnni_supported() else KINDS[:2]:
            found.append(
                Contestant(
                    PRODUCTS,
                    f"{kind} {shape}",
                    lambda k=kind, r=rows, i=inner, o=outer: product(k, r, i, o),
                    operations=operations,
                )
            )
    return found


def product(kind: str, rows: int, inner: int, outer: int) -> Run:
    weight, bias, x = torch.randn(outer, inner), torch.zeros(outer), torch.randn(rows, inner)
    if kind == "float32 plain":
        return lambda clips: nn.functional.linear(x, weight, bias)
    if kind == "float32":
        packed = _FloatProduct(weight, bias)
        return lambda clips: packed(x)
    integers, quantised = _IntegerProduct(weight, bias, Scale.of(-4, 4)), (x * 32 + 128).clamp(0, 255).byte()
    return lambda clips: integers(quantised)
