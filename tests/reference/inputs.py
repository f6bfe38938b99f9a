"""Inputs of the reference: waveforms, weights, model folders and corpora, all by formula.

Nothing here depends on the order in which torch draws random numbers, nor on other test helpers: the package can be
rearranged and the inputs stay the same, bit for bit.
"""

import csv
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from safetensors.torch import load_file, save_file
from torch import from_numpy
from transformers import WhisperConfig, WhisperModel

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor

RATE = 16000
LABELS = ["angry", "happy", "neutral", "sad"]

WAVEFORMS = {
    "0.4 s": (0.4, 200.0, 0.3, 1),
    "1.0 s": (1.0, 90.0, 0.05, 2),
    "3.7 s": (3.7, 320.0, 0.02, 3),
    "4.2 s": (4.2, 150.0, 0.3, 4),
    "9.3 s": (9.3, 260.0, 0.1, 5),
}
"""Arguments of `voice`: seconds, pitch, level and seed."""

MODELS: dict[str, dict[str, Any]] = {
    "mean": {"pooling_type": "mean"},
    "attentive": {"pooling_type": "attentive"},
    "attentive, with deviations": {"pooling_type": "attentive", "pooling_statistics": True},
    "attentive, scaled, tanh": {"pooling_type": "attentive", "scale_scores": True, "score_activation": "tanh"},
    "qkv": {"pooling_type": "qkv"},
    "qkv, with deviations, all queries": {
        "pooling_type": "qkv",
        "pooling_statistics": True,
        "pooling_queries": ["mean", "learnt", "max"],
    },
    "qkv of the authors' code": {"score_activation": "tanh", "layer_norm_after_pooling": True},
    "statistics": {"pooling_type": "statistics"},
    "mean, 5 frames averaged": {"pooling_type": "mean", "frame_averaging": 5},
    "attentive, 5 frames averaged": {"pooling_type": "attentive", "frame_averaging": 5},
    "qkv, 5 frames averaged": {"pooling_type": "qkv", "frame_averaging": 5},
    "statistics, 5 frames averaged": {"pooling_type": "statistics", "frame_averaging": 5},
    "padded to 30 s": {"chunk_seconds": 30.0, "pad_to_seconds": 30.0},
    "last layer": {"layer_index": 3},
    "concat": {"layer_mixing": "concat", "layer_indices": [1, 2]},
    "concat, statistics": {"layer_mixing": "concat", "layer_indices": [1, 3], "pooling_type": "statistics"},
    "weighted": {"layer_mixing": "weighted", "layer_indices": [1, 2, 3]},
    "attention": {"layer_mixing": "attention", "layer_indices": [1, 2]},
    "no standardisation": {"channel_standardisation": False},
    "ensemble": {
        "ensemble": [{}, {"pooling_type": "statistics"}, {"pooling_type": "attentive", "layer_indices": [1]}],
        "temperature": 1.5,
    },
}
"""Fields of the config, and `pad_to_seconds` of the feature extractor; the layer is 2 where none is named."""


def voice(seconds: float, pitch: float = 120.0, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """Returns a voice-like waveform `(samples,)`: harmonics of a wavering pitch, in syllables, with a little noise."""
    noise = np.random.RandomState(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * pitch * (time + 0.01 * np.sin(2 * np.pi * (2 + seed % 3) * time))
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 12))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * (3 + 0.5 * (seed % 4)) * time + seed)
    return (level * (harmonics * syllables + 0.03 * noise.standard_normal(len(time)))).astype(np.float32)


def recording() -> np.ndarray:
    """Returns 25 s of speech at several pitches between pauses, in a little noise."""
    audio = 0.0002 * np.random.RandomState(0).standard_normal(25 * RATE)
    for seed, (start, seconds, pitch, level) in enumerate(
        [(0.8, 3.1, 90, 0.2), (4.6, 0.6, 250, 0.1), (6.9, 2.2, 300, 0.2), (10.0, 9.4, 130, 0.1), (20.3, 2.9, 220, 0.3)]
    ):
        begin = round(start * RATE)
        spoken = voice(seconds, pitch, level, seed)
        audio[begin : begin + len(spoken)] += spoken
    return audio.astype(np.float32)


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the weights of the tensor saved under `name`, drawn by a seed that is the hash of the name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    drawn = np.random.RandomState(seed).standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if last == "deviation":
        return np.exp(0.3 * drawn)
    if last == "weight" and len(shape) == 1:
        return 1 + 0.2 * drawn
    if last in ("bias", "mean", "score_bias") or "embed_positions" in name:
        return 0.2 * drawn
    if last in ("score_weight", "layer_weights", "learnt_query"):
        return drawn
    scale = next((factor for part, factor in SCALES.items() if part in name), 1.0)
    return scale * drawn / np.sqrt(np.prod(shape[1:]))


SCALES = {"classifier": 2.0, "pooling.key": 2.0, "pooling.query": 2.0, "pooling.hidden": 2.0}
"""Factors that make attention uneven and answers differ from clip to clip."""


def fill(folder: Path) -> Path:
    """Replaces all weights saved in `folder` by those of `weights`; returns the folder."""
    path = folder / "model.safetensors"
    tensors = {
        name: from_numpy(np.ascontiguousarray(weights(name, tuple(tensor.shape)), dtype=np.float32))
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def write_encoder(folder: Path) -> Path:
    """Writes a Whisper of 3 layers, 32 wide, laid out as on the Hub; returns the folder."""
    config = WhisperConfig(
        d_model=32,
        encoder_layers=3,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    WhisperModel(config).save_pretrained(folder)
    return fill(folder)


def write_model(name: str, encoder: Path, folder: Path, labels: Sequence[str] = LABELS) -> Path:
    """Writes the model `name` of `MODELS`, on the encoder in a folder; returns its own folder."""
    fields = dict(MODELS[name])
    extractor = WhisperSerFeatureExtractor(pad_to_seconds=fields.pop("pad_to_seconds", None))
    if "layer_indices" not in fields:
        fields.setdefault("layer_index", 2)
    saved_queries = fields.pop("pooling_queries", None)
    model = WhisperForEmotionClassification.from_encoder(encoder, labels, **fields)
    if saved_queries:
        # Only saved models have them: a new one is refused.
        saved = {**model.config.to_dict(), "pooling_queries": saved_queries}
        model = WhisperForEmotionClassification(WhisperSerConfig.from_dict(saved))
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return fill(folder)


def write_corpus(folder: Path, speakers: int, each: int = 3, mislabelled: int = 0) -> Path:
    """Writes a corpus of two emotions that differ in pitch and level; returns the folder.

    With `mislabelled`, every so many utterances have the other label: without mistakes every figure would be 100.
    """
    folder.mkdir(parents=True)
    rows = []
    for speaker in range(speakers):
        for emotion, pitch, level in (("calm", 90, 0.03), ("excited", 260, 0.2)):
            for n in range(each):
                name = f"{speaker:02d}_{emotion}_{n}.wav"
                length = 0.8 + 0.15 * ((speaker + 2 * n) % 5)
                soundfile.write(folder / name, voice(length, pitch + 6 * speaker, level, 10 * speaker + n), RATE)
                wrong = mislabelled and len(rows) % mislabelled == 3
                told = {"calm": "excited", "excited": "calm"}[emotion] if wrong else emotion
                rows.append(
                    {
                        "file_name": name,
                        "emotion": told,
                        "speaker": f"{speaker:02d}",
                        "gender": "fm"[speaker % 2],
                        "language": "de",
                    }
                )
    write_table(folder, rows)
    return folder


def write_table(folder: Path, rows: list[dict[str, str]]) -> None:
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def write_leaky_corpus(folder: Path) -> Path:
    """Writes a corpus whose published folds share a speaker and two recordings; returns the folder.

    `copied.wav` of fold 2 is `0_0.wav` of fold 1, byte for byte, and `encoded.mp3` is `1_1.wav`, quieter, as an MP3 at
    8 kHz. The speaker `s2` is in both folds, and the label `sad` in fold 2 alone.
    """
    folder.mkdir(parents=True)
    rows = []
    for speaker in range(4):
        for n in range(3):
            name = f"{speaker}_{n}.wav"
            seed = 3 * speaker + n
            soundfile.write(folder / name, voice(1.0 + 0.1 * n, 90 + 23 * seed, 0.1, seed), RATE)
            fold = "1" if speaker < 2 or (speaker, n) == (2, 0) else "2"
            rows.append(
                {"file_name": name, "emotion": ("calm", "excited")[n % 2], "speaker": f"s{speaker}", "fold": fold}
            )
    shutil.copy(folder / "0_0.wav", folder / "copied.wav")
    samples, _ = soundfile.read(folder / "1_1.wav")
    quieter = 0.5 * soxr.resample(samples, RATE, 8000)
    soundfile.write(
        folder / "encoded.mp3", quieter, 8000, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.9
    )
    rows.append({"file_name": "copied.wav", "emotion": "calm", "speaker": "s4", "fold": "2"})
    rows.append({"file_name": "encoded.mp3", "emotion": "sad", "speaker": "s5", "fold": "2"})
    write_table(folder, rows)
    return folder


Row = dict[str, str]


def rows_of(speakers: int, **columns: Any) -> list[Row]:
    """Returns the rows of a corpus of unequal speakers, in no order; columns are functions of (speaker, number)."""
    rows = [
        {
            "path": f"s{speaker}_{n}.wav",
            "emotion": ("angry", "neutral", "sad")[n % 3],
            "speaker": f"s{speaker}",
            **{name: value(speaker, n) for name, value in columns.items()},
        }
        for speaker in range(speakers)
        for n in range(3 + (7 * speaker) % 4)
    ]
    return sorted(rows, key=lambda row: hashlib.sha256(row["path"].encode()).digest())


CORPORA: dict[str, list[Row]] = {
    "speakers": rows_of(7),
    "many speakers": rows_of(13),
    "sessions": rows_of(6, group=lambda s, n: f"Session{s // 2 + 1}"),
    "folds": rows_of(8, fold=lambda s, n: str(s % 4 + 7)),
    "parts": rows_of(7, group=lambda s, n: "train" if s < 4 else "dev" if s < 5 else "test"),
    "parts without validation": rows_of(7, fold=lambda s, n: "train" if s < 5 else "test"),
    "unknown speakers": rows_of(6, speaker=lambda s, n: ""),
}
"""The rows of each corpus that is cut into folds: path, emotion, speaker, and group or fold."""

CUTS = [
    ("loso", "speakers"),
    ("group", "sessions"),
    ("speaker_groups", "many speakers"),
    ("fold", "folds"),
    ("fixed", "parts"),
    ("fixed", "parts without validation"),
    ("stratified", "unknown speakers"),
    ("split", "speakers"),
    *(("auto", corpus) for corpus in CORPORA),
]
"""A protocol, and the corpus that is cut by it."""
