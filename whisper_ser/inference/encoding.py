"""From log-mel to encoder states: even chunks, run in passes of bounded size, joined and averaged."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from whisper_ser.inference.engines import Encoder

LEAST_FILLED = 0.85
"""Share of a pass that must be real frames: where lengths differ more, another pass costs less than padding."""


class Chunk(NamedTuple):
    """A stretch of one clip, in encoder frames."""

    clip: int
    start: int
    frames: int


def encode(
    mels: Sequence[np.ndarray], encoder: Encoder, chunk_frames: int, frame_averaging: int = 1
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Yields, pass by pass, stretches of states: the index of a clip, and its next states `(layers, frames, width)`.

    Args:
        mels: log-mel of each clip `(mel_frames, mels)`.
        encoder: what runs the chunks.
        chunk_frames: encoder frames of a chunk at most.
        frame_averaging: encoder frames that make one of the states; the last group of a clip may be smaller.
    """
    chunks = [
        Chunk(clip, start, frames)
        for clip, mel in enumerate(mels)
        for start, frames in even_chunks(encoder_frames(len(mel)), chunk_frames)
    ]
    missing = [encoder_frames(len(mel)) for mel in mels]
    rests: dict[int, np.ndarray] = {}
    for group in _passes(chunks, encoder.frames_per_pass):
        states = encoder.encode(*_features(mels, group))
        stretches = []
        for index, chunk in enumerate(group):
            found = states[:, index, : chunk.frames]
            missing[chunk.clip] -= chunk.frames
            if frame_averaging > 1:
                # Groups of averaged frames reach across the ends of chunks.
                found = np.concatenate([rests.pop(chunk.clip, found[:, :0]), found], axis=1)
                whole = (
                    found.shape[1] if missing[chunk.clip] == 0 else found.shape[1] // frame_averaging * frame_averaging
                )
                rests[chunk.clip] = found[:, whole:]
                found = average_frames(found[:, :whole], frame_averaging)
            stretches.append((chunk.clip, found))
        yield stretches


def encoder_frames(mel_frames: int) -> int:
    """Returns how many encoder frames so many mel frames make: one for two, a single last one included."""
    return -(-mel_frames // 2)


def even_chunks(frames: int, longest: int) -> list[tuple[int, int]]:
    """Returns `(start, frames)` of the fewest chunks of at most `longest` frames; sizes differ by at most one."""
    count = -(-frames // longest)
    size, larger = divmod(frames, count)
    return [(index * size + min(index, larger), size + (index < larger)) for index in range(count)]


def average_frames(states: np.ndarray, group: int) -> np.ndarray:
    """Returns the mean of every `group` frames of `(layers, frames, width)`; the last group may be smaller."""
    layers, frames, width = states.shape
    whole = frames // group * group
    means = states[:, :whole].reshape(layers, -1, group, width).mean(2)
    return means if whole == frames else np.concatenate([means, states[:, whole:].mean(1, keepdims=True)], axis=1)


def _passes(chunks: list[Chunk], frames_per_pass: int) -> Iterator[list[Chunk]]:
    """Yields groups of chunks of similar length; those of one clip stay in order, as its longer ones come first."""
    group: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda c: -c.frames):
        longest = group[0].frames if group else chunk.frames
        if (len(group) + 1) * longest > max(frames_per_pass, longest) or chunk.frames < LEAST_FILLED * longest:
            yield group
            group = []
        group.append(chunk)
    yield group


def _features(mels: Sequence[np.ndarray], group: list[Chunk]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log-mel of chunks `(chunks, mel_frames, mels)` and their lengths `(chunks,)`."""
    cut = [mels[chunk.clip][2 * chunk.start : 2 * (chunk.start + chunk.frames)] for chunk in group]
    lengths = np.array([len(mel) for mel in cut], np.int64)
    features = np.zeros((len(cut), lengths.max(), cut[0].shape[1]), np.float32)
    for row, mel in zip(features, cut, strict=True):
        row[: len(mel)] = mel
    return features, lengths
