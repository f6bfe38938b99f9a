"""Emotions of a stream: audio is fed as it comes, and windows and segments come out as they become certain."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from whisper_ser.audio.decoding import Resampler, check_rate, check_samples
from whisper_ser.errors import AudioFileError, InferenceError
from whisper_ser.inference.chunks import Chunk, Chunker
from whisper_ser.inference.model import ExportedModel, LoadedModel, load_frame_model
from whisper_ser.inference.outputs import Update
from whisper_ser.inference.windows import Piece, WindowPooling

CHUNKS_ENCODED = 8
"""Chunks, of like length, encoded at a time at most: more would spend more on padding than they save."""


class EmotionStream:
    """A timeline that grows while audio is fed, in blocks of any size.

    Speech is cut at pauses into chunks of at most the model's `chunk_seconds`, and each chunk is encoded as the model
    met utterances in training: alone, its log-mel clamped below its own maximum. Nothing depends on what comes more
    than a second later, so the updates together are the timeline of the whole file.

    Latency: a chunk is complete with the pause that ends it, or when speech has gone on for a second longer than
    `chunk_seconds`; the detector of speech looks one second ahead. With chunks of 4 s an update comes at most 6 s
    behind the audio (speech that lasts less than a second waits for half a window more). Memory is that of some ten
    seconds of audio and one window, however long the stream.

    Args:
        model: a folder, a Hub id, or what `load_model` returned.
        sampling_rate: hertz of the blocks; left out, the model's.
        window, hop: seconds of a window, and from one window to the next.

    Raises:
        InferenceError: window or hop too short, or a model that pads its audio.
    """

    def __init__(
        self,
        model: str | os.PathLike | LoadedModel | ExportedModel,
        sampling_rate: int | None = None,
        *,
        window: float = 3.0,
        hop: float = 0.5,
        device: Any = None,
    ) -> None:
        self._recognizer = recognizer_for_time(model, device)
        self._rate = self._recognizer.sampling_rate if sampling_rate is None else sampling_rate
        check_rate("the stream", self._rate)
        self._resampler = Resampler(self._rate, self._recognizer.sampling_rate)
        self._chunker = Chunker(self._recognizer.settings.chunk_frames, self._recognizer.sampling_rate)
        self._pooling = WindowPooling(self._recognizer, window, hop)
        self._samples = 0

    @property
    def seconds(self) -> float:
        """How much audio was fed."""
        return self._samples / self._rate

    def feed(self, block: np.ndarray) -> Update:
        """Returns what the next samples make certain: `(samples,)` or `(samples, channels)`, floats in [-1, 1].

        Raises:
            AudioFileError: other shapes, integers, or samples that are NaN, infinite or beyond 1e12.
        """
        if block.dtype.kind != "f" or block.ndim not in (1, 2) or not np.isfinite(block).all():
            raise AudioFileError(
                "the stream",
                f"has a block {block.dtype} {block.shape}; expected finite floats in [-1, 1], (samples,) or "
                "(samples, channels)",
            )
        check_samples("the stream", block)
        self._samples += len(block)
        mono = block.astype(np.float32, copy=False)
        chunks = self._chunker.feed(self._resampler.feed(mono if mono.ndim == 1 else mono.mean(axis=1)))
        return self._pooling.feed(encoded(chunks, self._recognizer), self._chunker.settled)

    def finish(self) -> Update:
        """Returns the rest, once the stream has ended."""
        chunks = self._chunker.feed(self._resampler.finish()) + self._chunker.finish()
        return self._pooling.finish(encoded(chunks, self._recognizer), self.seconds)


def stream(
    blocks: Iterable[np.ndarray],
    model: str | os.PathLike | LoadedModel | ExportedModel,
    sampling_rate: int | None = None,
    *,
    window: float = 3.0,
    hop: float = 0.5,
    device: Any = None,
) -> Iterator[Update]:
    """Yields updates that are not empty, while blocks of audio come from a microphone, a socket or a file.

    The arguments are those of `EmotionStream`, the blocks those of its `feed`, and so are the errors.
    """
    emotions = EmotionStream(model, sampling_rate, window=window, hop=hop, device=device)
    for block in blocks:
        update = emotions.feed(block)
        if update.windows or update.segments:
            yield update
    yield emotions.finish()


def recognizer_for_time(model: str | os.PathLike | LoadedModel | ExportedModel, device: Any) -> LoadedModel:
    """Returns the model, loaded; raises `InferenceError` where its frames would not be those of the audio."""
    recognizer = load_frame_model(model, device)
    seconds = recognizer.settings.log_mel.pad_to_seconds
    if seconds is not None:
        raise InferenceError(
            f"This model pads or cuts audio to {seconds:g} s, and has no answers for parts of it: predict whole files "
            "with it, or train a model with pad_to_seconds left out."
        )
    return recognizer


def encoded(chunks: list[Chunk], recognizer: LoadedModel) -> list[Piece]:
    """Returns the chunks with the frame vectors of those that are speech."""
    speech = [chunk for chunk in chunks if chunk.audio is not None]
    speech.sort(key=lambda chunk: chunk.end - chunk.start)
    vectors: dict[int, np.ndarray] = {}
    for first in range(0, len(speech), CHUNKS_ENCODED):
        group = speech[first : first + CHUNKS_ENCODED]
        mels = [recognizer.settings.log_mel(chunk.audio) for chunk in group if chunk.audio is not None]
        vectors.update(zip([chunk.start for chunk in group], recognizer.frame_vectors(mels), strict=True))
    nothing = np.empty((0, recognizer.frame_width), np.float32)
    pieces = []
    for chunk in chunks:
        found = vectors.get(chunk.start, nothing)
        positions = chunk.start + frame_positions(len(found), chunk.end - chunk.start)
        pieces.append(Piece(chunk.start, chunk.end, chunk.audio is not None, positions, found))
    return pieces


def frame_positions(vectors: int, frames: int) -> np.ndarray:
    """Returns the frame of 20 ms that each of so many vectors begins with; a model may average several frames."""
    return np.arange(vectors) * -(-frames // max(vectors, 1))
