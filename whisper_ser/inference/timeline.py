"""Emotions over the time of a recording of any length: the encoder runs once, and windows pool its frames."""

import os
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from whisper_ser.audio.decoding import Audio, decode
from whisper_ser.errors import InferenceError
from whisper_ser.inference.chunks import Chunker
from whisper_ser.inference.model import ExportedModel, LoadedModel
from whisper_ser.inference.outputs import Timeline, Update, join_segments
from whisper_ser.inference.predict import Meter, named
from whisper_ser.inference.streaming import encoded, frame_positions, recognizer_for_time
from whisper_ser.inference.windows import Piece, WindowPooling

Cut = Literal["pauses", "even"]

PIECES_POOLED = 64
"""Pieces that are pooled at a time."""


def timeline(
    audio: Audio,
    model: str | os.PathLike | LoadedModel | ExportedModel,
    *,
    window: float = 3.0,
    hop: float = 0.5,
    cut: Cut = "pauses",
    channel: int | None = None,
    sampling_rate: int | None = None,
    device: Any = None,
) -> Timeline:
    """Returns the emotions over the time of one recording.

    Args:
        audio: a path, or an array `(samples,)` or `(samples, channels)` in [-1, 1].
        model: a folder, a Hub id, or a loaded model.
        window, hop: length of a window, and distance between windows, in seconds.
        cut: where the chunks of the encoder end. `"pauses"` encodes only speech, from pause to pause, like utterances
            in training; it is more accurate, and equal to `EmotionStream`. `"even"` encodes everything like `predict`;
            its probabilities over the whole are those of `predict`.
        channel: counted from 1; left out, channels are averaged.
        sampling_rate: of an array, in hertz; by default that of the model.
        device: where to run a model that is loaded here.

    Raises:
        AudioFileError: the recording cannot be used, or has no such channel. Silence is not an error.
        InferenceError: window, hop, cut or model do not allow a timeline.
    """
    if cut not in ("pauses", "even"):
        raise InferenceError(f"cut={cut!r} must be 'pauses' or 'even'.")
    recognizer = recognizer_for_time(model, device)
    ((name, _),) = named([audio])
    pooling = WindowPooling(recognizer, window, hop)
    meter = Meter()
    blocks = meter.watching(decode(audio, name, recognizer.sampling_rate, channel, sampling_rate))
    updates, vectors = [], []
    for pieces, settled in (_cut_at_pauses if cut == "pauses" else _cut_evenly)(blocks, recognizer):
        vectors += [piece.vectors for piece in pieces]
        if settled is None:
            updates.append(pooling.finish(pieces, meter.samples / recognizer.sampling_rate))
        else:
            updates.append(pooling.feed(pieces, settled))
    return Timeline(
        name,
        channel,
        meter.samples / recognizer.sampling_rate,
        window,
        hop,
        recognizer.labels,
        _whole(vectors, updates, recognizer),
        [span for update in updates for span in update.windows],
        join_segments([span for update in updates for span in update.segments]),
    )


def _cut_at_pauses(blocks: Iterator[np.ndarray], recognizer: LoadedModel) -> Iterator[tuple[list[Piece], int | None]]:
    """Yields pieces whose speech is encoded from pause to pause, and the frame before which all frames are known.

    The frame is `None` for the last pieces.
    """
    chunker = Chunker(recognizer.settings.chunk_frames, recognizer.sampling_rate)
    for block in blocks:
        yield encoded(chunker.feed(block), recognizer), chunker.settled
    yield encoded(chunker.finish(), recognizer), None


def _cut_evenly(blocks: Iterator[np.ndarray], recognizer: LoadedModel) -> Iterator[tuple[list[Piece], int | None]]:
    """Yields the pieces of a recording that is encoded like in `predict`, silence included."""
    chunker = Chunker(recognizer.settings.chunk_frames, recognizer.sampling_rate)
    chunks = []

    def watched() -> Iterator[np.ndarray]:
        for block in blocks:
            chunks.extend(chunker.feed(block))
            yield block

    (vectors,) = recognizer.frame_vectors([recognizer.settings.log_mel.of_blocks(watched())])
    chunks += chunker.finish()
    positions = frame_positions(len(vectors), recognizer)
    bounds = np.searchsorted(positions, [0] + [chunk.end for chunk in chunks])
    bounds[-1] = len(vectors)
    pieces = [
        Piece(chunk.start, chunk.end, chunk.audio is not None, positions[begin:end], vectors[begin:end])
        for chunk, begin, end in zip(chunks, bounds[:-1], bounds[1:], strict=True)
    ]
    for first in range(0, len(pieces), PIECES_POOLED):
        group = pieces[first : first + PIECES_POOLED]
        yield group, None if group[-1] is pieces[-1] else group[-1].end


def _whole(vectors: list[np.ndarray], updates: list[Update], recognizer: LoadedModel) -> dict[str, float] | None:
    """Returns the probabilities over all frames, or `None` without speech."""
    if not any(span.probabilities for update in updates for span in update.segments):
        return None
    frames = np.concatenate(vectors)
    (row,) = recognizer.pool(frames, [len(frames)])
    return dict(zip(recognizer.labels, row.tolist(), strict=True))
