"""Who takes part in `bench_latency.py`: ours, stock transformers, ONNX Runtime, CTranslate2.

Rivals have what they gain from: as many threads, all graph optimisations, ONNX Runtime's usual options, threads that
wait busily among them. "spoken" are the chunks of spoken frames that ours encodes; "window" is the 30 s that stock
Whisper wants. ONNX Runtime runs Whisper's encoder as torch's exporter gives it, with our log-mel before and our head
behind it; its int8 is its own dynamic quantisation of that file, with weights of 7 bits so that it is right on every
processor. CTranslate2 gets our log-mel and stops at the encoder's states; it has no cut encoder, and is compared on
all layers of tiny.en, whose file it reads. transformers hears the first 30 s of longer audio, the others all of it.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperForAudioClassification

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from modeling_whisper_ser.encoder_whisper_ser import WhisperSerEncoder
from whisper_ser.demo.encoder import DEMO_ENCODER, demo_ctranslate2_folder, resolve_encoder
from whisper_ser.inference.encoding import encoder_frames, even_chunks
from whisper_ser.inference.engines.graph_export import quiet
from whisper_ser.inference.model import LoadedModel, load_model, model_of
from whisper_ser.inference.reference_waveform import VOICES, describe_waveform, waveform

RATE = 16000
WINDOW_SECONDS = 30
LABELS = ["angry", "happy", "neutral", "sad"]
Clips = list[np.ndarray]
Run = Callable[[Clips], Any]


@dataclass(frozen=True)
class Contestant:
    """One way to answer.

    Args:
        task: the encoder and its layers.
        name: who it is.
        build: returns a function from waveforms `(samples,)` to whatever it gives.
        prepare: writes the files that `build` reads.
    """

    task: str
    name: str
    build: Callable[[], Run]
    prepare: Callable[[], object] | None = None


def entrants(encoder: str, layer: int, threads: int, scratch: Path) -> list[Contestant]:
    """Returns who takes part; nothing is loaded yet.

    Args:
        encoder: Whisper in Hugging Face's layout.
        layer: where the cut encoder ends.
        threads: of those that do not go by torch's.
        scratch: folder for exported files.
    """
    name = Path(resolve_encoder(encoder)).name
    return [
        *with_stock(f"{name}, layer {layer}", encoder, layer, threads, scratch),
        *with_stock(f"{name}, all layers", encoder, None, threads, scratch),
        *with_ctranslate2("tiny.en, all layers", threads, scratch),
    ]


def with_stock(task: str, encoder: str, layer: int | None, threads: int, scratch: Path) -> list[Contestant]:
    found = own(task, encoder, layer, threads, scratch)
    return [Contestant(task, "transformers window", lambda: stock(encoder)), *found]


def with_ctranslate2(task: str, threads: int, scratch: Path) -> list[Contestant]:
    found = own(task, DEMO_ENCODER, None, threads, scratch)
    for precision, frames in itertools.product(("float32", "int8"), ("spoken", "window")):
        name = f"ctranslate2 {precision} {frames}"
        found.append(Contestant(task, name, lambda p=precision, f=frames: ctranslate2(p, f, threads)))
    return found


def own(task: str, encoder: str, layer: int | None, threads: int, scratch: Path) -> list[Contestant]:
    folder, file, int8_file = scratch / task, scratch / f"{task}.onnx", scratch / f"{task} int8.onnx"

    def prepare_ours() -> None:
        if not folder.exists():
            save(encoder, layer, folder)

    def prepare_rival() -> None:
        if not file.exists():
            export_encoder(encoder, layer, file)
            quantise(file, int8_file)

    return [
        Contestant(task, "ours float32", lambda: load_model(folder, "cpu").probabilities, prepare_ours),
        Contestant(task, "ours int8", lambda: load_model(folder, "cpu", "int8").probabilities, prepare_ours),
        Contestant(task, "torch float32", lambda: plain(encoder, layer)),
        Contestant(
            task, "onnxruntime float32 spoken", lambda: onnxruntime(encoder, layer, file, threads), prepare_rival
        ),
        Contestant(
            task, "onnxruntime int8 spoken", lambda: onnxruntime(encoder, layer, int8_file, threads), prepare_rival
        ),
    ]


def cut_model(encoder: str, layer: int | None) -> WhisperForEmotionClassification:
    """Returns a model up to `layer`, all layers by default, with a head of random weights."""
    torch.manual_seed(0)
    folder = resolve_encoder(encoder)
    if layer is None:
        layer = WhisperForEmotionClassification.from_encoder(folder, LABELS).config.encoder_config.encoder_layers
    return WhisperForEmotionClassification.from_encoder(folder, LABELS, layer_index=layer).eval()


def extractor_of(model: WhisperForEmotionClassification) -> WhisperSerFeatureExtractor:
    return WhisperSerFeatureExtractor(feature_size=model.config.encoder_config.num_mel_bins)


def engine(encoder: str, layer: int | None) -> LoadedModel:
    model = cut_model(encoder, layer)
    return model_of(model, extractor_of(model))


def save(encoder: str, layer: int | None, folder: Path) -> None:
    """Writes the model as training does, with its reference output and its graphs in the cache."""
    model = cut_model(encoder, layer)
    model.save_pretrained(folder)
    extractor_of(model).save_pretrained(folder)
    for precision in ("float32", "int8"):
        load_model(folder, "cpu", precision)


def plain(encoder: str, layer: int | None) -> Run:
    """The model in torch, which ours is held to."""
    model = cut_model(encoder, layer)
    extractor = extractor_of(model)

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


class PlainEncoder(torch.nn.Module):
    """The encoder as anybody would export it: chunks of one length, weights inside."""

    def __init__(self, encoder: WhisperSerEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.encoder.encode_chunks(features)


def export_encoder(encoder: str, layer: int | None, file: Path) -> None:
    model = PlainEncoder(cut_model(encoder, layer).whisper_ser.encoder).eval()
    with quiet():
        program = torch.onnx.export(
            model,
            (torch.randn(3, 30, model.encoder.conv1.in_channels),),
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: "chunks", 1: "mel_frames"},),
        )
    assert program is not None
    program.save(file)


def quantise(file: Path, target: Path) -> None:
    """Writes what ONNX Runtime's own quantisation makes of an exported encoder."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(file, target, per_channel=True, reduce_range=True, op_types_to_quantize=["MatMul", "Gemm"])


def onnxruntime(encoder: str, layer: int | None, file: Path, threads: int) -> Run:
    import onnxruntime as library

    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    session = library.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    model = engine(encoder, layer)
    (name,) = (one.name for one in session.get_inputs())
    states = lambda mels: session.run(None, {name: mels})[0]  # noqa: E731
    return in_equal_chunks(model, "spoken", states, joined=True)


def ctranslate2(precision: str, frames: str, threads: int) -> Run:
    import ctranslate2 as library

    whisper = library.models.Whisper(
        str(demo_ctranslate2_folder()), device="cpu", compute_type=precision, intra_threads=threads
    )

    def states(mels: np.ndarray) -> np.ndarray:
        mels = np.ascontiguousarray(mels.transpose(0, 2, 1))
        return np.asarray(whisper.encode(library.StorageView.from_array(mels)))

    agree(states, cut_model(DEMO_ENCODER, None).whisper_ser.encoder, precision)
    return in_equal_chunks(engine(DEMO_ENCODER, None), frames, states)


def agree(states: Callable[[np.ndarray], np.ndarray], encoder: WhisperSerEncoder, precision: str) -> None:
    """Raises if a rival computes something else than our plain encoder."""
    extractor = WhisperSerFeatureExtractor(feature_size=encoder.conv1.in_channels)
    features = extractor(recordings(2.0, 1)[0], return_tensors="pt")
    with torch.inference_mode():
        expected = encoder(**features)[0][0, 0].numpy()
    difference = np.linalg.norm(states(features["input_features"].numpy())[0] - expected) / np.linalg.norm(expected)
    if difference > (0.001 if precision == "float32" else 0.25):
        raise RuntimeError(f"A rival's states are off by {difference:.1%}: the comparison would be unfair.")


def in_equal_chunks(
    model: LoadedModel, frames: str, states: Callable[[np.ndarray], np.ndarray], joined: bool = False
) -> Run:
    """Returns a function that encodes what ours does: rivals have no mask, and get chunks of one length together.

    Args:
        model: ours, whose log-mel they get.
        frames: `"spoken"` or `"window"`.
        states: from log-mel `(chunks, mel_frames, mels)` to states `([layers,] chunks, frames, width)`.
        joined: give the states of each clip to our head.
    """
    window = frames == "window"
    longest = WINDOW_SECONDS * 50 if window else model.settings.chunk_frames
    silence = np.zeros(WINDOW_SECONDS * RATE if window else 0, np.float32)

    def run(clips: Clips) -> Any:
        heard = [np.concatenate([clip, silence])[: len(silence)] for clip in windows(clips)] if window else clips
        mels = [model.settings.log_mel(clip) for clip in heard]
        chunks = [
            (index, start, mel[2 * start : 2 * (start + size)])
            for index, mel in enumerate(mels)
            for start, size in even_chunks(encoder_frames(len(mel)), longest)
        ]
        chunks.sort(key=lambda chunk: len(chunk[2]))
        found = []
        for _, group in itertools.groupby(chunks, key=lambda chunk: len(chunk[2])):
            together = list(group)
            of_group = states(np.stack([mel for *_, mel in together]))
            found += [(index, start, of_group[..., n, :, :]) for n, (index, start, _) in enumerate(together)]
        if not joined:
            return found
        found.sort(key=lambda chunk: chunk[:2])
        counts = np.bincount([index for index, *_ in found], [part.shape[1] for *_, part in found]).astype(int)
        vectors = model.engine.frame_vectors(np.concatenate([part for *_, part in found], axis=1))
        return model.pool(vectors, counts.tolist())

    return run


def windows(clips: Clips) -> Clips:
    """Returns the clips cut every 30 s."""
    step = WINDOW_SECONDS * RATE
    return [clip[begin : begin + step] for clip in clips for begin in range(0, len(clip), step)]


def recordings(seconds: float, batch: int) -> Clips:
    """Returns voice-like waveforms, no two alike."""
    voices = np.concatenate([waveform(describe_waveform(voice, RATE)) for voice in VOICES])
    samples = round(seconds * RATE)
    endless = np.tile(voices, -(-(samples + batch * RATE) // len(voices)))
    return [endless[index * RATE : index * RATE + samples] for index in range(batch)]
