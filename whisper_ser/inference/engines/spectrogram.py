"""Audio to log-mel in a graph: what `WhisperSerFeatureExtractor` computes, its Fourier transform as a product."""

import numpy as np

from modeling_whisper_ser import WhisperSerFeatureExtractor
from whisper_ser.inference.engines.nodes import Nodes, Value

BLOCK_FRAMES = 6000
"""Mel frames (60 s) transformed at a time, so that spectra of an hour are never in memory together."""


def log_mel(nodes: Nodes, audio: str, lengths: str, extractor: WhisperSerFeatureExtractor) -> tuple[str, str]:
    """Adds the spectrogram to a graph.

    Args:
        audio: `(batch, samples)`.
        lengths: samples of each clip `(batch,)`; what lies behind is not read.

    Returns:
        Log-mel `(batch, mel_frames, mels)`, and how many frames of each clip are real `(batch,)`.
    """
    hop, half = extractor.hop_length, extractor.n_fft // 2
    samples = nodes.size(audio, 1)
    lengths = nodes.op("Min", lengths, samples)
    real = nodes.op("Less", nodes.op("Unsqueeze", nodes.count_to(samples), [0]), nodes.op("Unsqueeze", lengths, [1]))
    audio = nodes.op("Where", real, audio, 0.0)
    if extractor.pad_to_seconds is None:
        # The stock extractor takes its maximum over the few frames beyond the end that still touch the clip, too.
        frames = nodes.divided_up(nodes.op("Add", samples, half), [hop])
        mel_frames = nodes.divided_up(lengths, hop)
        after = None
    else:
        target = round(extractor.pad_to_seconds * extractor.sampling_rate)
        audio = nodes.cut(_extended(nodes, audio, [target]), 0, target, axis=1)
        frames = nodes.op("Identity", [target // hop])
        mel_frames = nodes.op("Add", nodes.op("Mul", lengths, 0), target // hop)
        after = nodes.cut(audio, -2, -2 - half, axis=1, step=-1)
    power = _mel_power(nodes, audio, after, frames, extractor)
    decades = nodes.op("Mul", nodes.op("Log", nodes.op("Max", power, 1e-10)), float(1 / np.log(10)))
    highest = nodes.op("ReduceMax", decades, axes=[1, 2], keepdims=1)
    clamped = nodes.op("Max", decades, nodes.op("Sub", highest, 8.0))
    return nodes.op("Div", nodes.op("Add", clamped, 4.0), 4.0), mel_frames


def _mel_power(nodes: Nodes, audio: str, after: str | None, frames: str, extractor: WhisperSerFeatureExtractor) -> str:
    """Returns the mel power spectrum `(batch, frames or a few more, mels)`."""
    hop, half, mels = extractor.hop_length, extractor.n_fft // 2, extractor.feature_size
    rounds = nodes.divided_up(frames, [BLOCK_FRAMES])
    block = nodes.divided_up(frames, rounds)
    steps = -(-extractor.n_fft // hop)
    needed = nodes.op("Mul", nodes.op("Add", nodes.op("Mul", rounds, block), steps - 1), hop)
    if after is not None:
        audio = nodes.op("Concat", audio, after, axis=1)
    missing = nodes.op("Sub", nodes.op("Sub", needed, half), nodes.size(audio, 1))
    audio = _extended(nodes, audio, nodes.op("Max", missing, [0]))
    audio = nodes.op("Concat", nodes.cut(audio, half, 0, axis=1, step=-1), audio, axis=1)
    transform, filters = _transform_and_filters(extractor)

    def powers(inner: Nodes, number: str) -> str:
        first = inner.op("Mul", inner.op("Mul", number, block), hop)
        length = inner.op("Mul", inner.op("Add", block, steps - 1), hop)
        piece = inner.cut(audio, first, inner.op("Add", first, length), axis=1)
        hops = inner.op("Reshape", piece, [0, -1, hop])
        shifted = [inner.cut(hops, step, inner.op("Add", block, step), axis=1) for step in range(steps)]
        framed = inner.cut(inner.op("Concat", *shifted, axis=2), 0, extractor.n_fft, axis=2)
        spectrum = inner.op("MatMul", framed, transform)
        return inner.op("MatMul", inner.op("Mul", spectrum, spectrum), filters)

    stacked = nodes.op("Transpose", nodes.loop(rounds, powers), perm=[1, 0, 2, 3])
    return nodes.op("Reshape", stacked, [0, -1, mels])


def _extended(nodes: Nodes, audio: str, zeros: Value) -> str:
    """Returns audio `(batch, samples)` with `zeros` `(1,)` samples of silence behind."""
    return nodes.op("Pad", audio, nodes.shape(0, 0, 0, zeros), 0.0)


def _transform_and_filters(extractor: WhisperSerFeatureExtractor) -> tuple[np.ndarray, np.ndarray]:
    """Returns window and Fourier transform `(n_fft, 2 * bins)`, and the mel filters of both parts `(2 * bins, mels)`.

    Frequencies that no filter hears are left out.
    """
    heard = np.flatnonzero(extractor.mel_filters.any(axis=1))
    sample = np.arange(extractor.n_fft)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample / extractor.n_fft)
    # Whole turns are taken out before the angle is rounded.
    angle = 2 * np.pi * (np.outer(sample, heard) % extractor.n_fft) / extractor.n_fft
    transform = window[:, None] * np.concatenate([np.cos(angle), -np.sin(angle)], axis=1)
    filters = np.tile(extractor.mel_filters[heard], (2, 1))
    return transform.astype(np.float32), filters.astype(np.float32)
