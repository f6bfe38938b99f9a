"""Emotions of a stream: audio is fed as it arrives, and windows and segments are returned when they are final."""

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


class EmotionStream:
    """A timeline that grows while audio is fed, in blocks of any size.

    Speech is cut at pauses into chunks of at most the `chunk_seconds` of the model. Each chunk is encoded like an
    utterance in training: alone, with its log-mel clamped below its own maximum. Nothing depends on audio more than a
    second ahead, so all updates together are the timeline of the whole file.

    Latency: a chunk is complete at the pause that ends it, or when speech exceeds `chunk_seconds` by a second. Voice
    activity looks one second ahead. With chunks of 4 s, an update is at most 6 s behind the audio; speech of less than
    a second waits for half a window more. Memory is that of about ten seconds of audio and one window.

    Args:
        model: a folder, a Hub id, or a loaded model.
        sampling_rate: of the blocks, in hertz; by default that of the model.
        window, hop: length of a window, and distance between windows, in seconds.

    Raises:
        InferenceError: window or hop is too short, or the model pads its audio.
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
        """Seconds of audio fed so far."""
        return self._samples / self._rate

    def feed(self, block: np.ndarray) -> Update:
        """Returns what is final after the next samples: `(samples,)` or `(samples, channels)`, floats in [-1, 1].

        Raises:
            AudioFileError: a wrong shape, integers, or samples that are NaN, infinite or beyond 1e12.
        """
        if block.dtype.kind != "f" or block.ndim not in (1, 2) or block.shape[1:] == (0,):
            raise AudioFileError(
                "the stream",
                f"has a block {block.dtype} {block.shape}; expected floats in [-1, 1], (samples,) or "
                "(samples, channels)",
            )
        check_samples("the stream", block)
        self._samples += len(block)
        mono = block.astype(np.float32, copy=False)
        chunks = self._chunker.feed(self._resampler.feed(mono if mono.ndim == 1 else mono.mean(axis=1)))
        return self._pooling.feed(encoded(chunks, self._recognizer), self._chunker.settled)

    def finish(self) -> Update:
        """Returns the rest when the stream has ended."""
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
    """Yields the updates that are not empty, while blocks of audio arrive from a microphone, a socket or a file.

    Arguments and errors are those of `EmotionStream` and its `feed`.
    """
    emotions = EmotionStream(model, sampling_rate, window=window, hop=hop, device=device)
    for block in blocks:
        update = emotions.feed(block)
        if update.windows or update.segments:
            yield update
    yield emotions.finish()


def recognizer_for_time(model: str | os.PathLike | LoadedModel | ExportedModel, device: Any) -> LoadedModel:
    """Returns the loaded model; raises `InferenceError` if it pads or cuts audio to a fixed length."""
    recognizer = load_frame_model(model, device)
    seconds = recognizer.settings.log_mel.pad_to_seconds
    if seconds is not None:
        raise InferenceError(
            f"This model pads or cuts audio to {seconds:g} s and cannot classify parts of it: predict whole files "
            "with it, or train a model without pad_to_seconds."
        )
    return recognizer


def encoded(chunks: list[Chunk], recognizer: LoadedModel) -> list[Piece]:
    """Returns the chunks with their frame vectors; silence has none."""
    starts = [chunk.start for chunk in chunks if chunk.audio is not None]
    mels = [recognizer.settings.log_mel(chunk.audio) for chunk in chunks if chunk.audio is not None]
    vectors = dict(zip(starts, recognizer.frame_vectors(mels) if mels else [], strict=True))
    nothing = np.empty((0, recognizer.frame_width), np.float32)
    pieces = []
    for chunk in chunks:
        found = vectors.get(chunk.start, nothing)
        positions = chunk.start + frame_positions(len(found), recognizer)
        pieces.append(Piece(chunk.start, chunk.end, chunk.audio is not None, positions, found))
    return pieces


def frame_positions(vectors: int, recognizer: LoadedModel) -> np.ndarray:
    """Returns the index of the 20 ms frame at which each vector begins `(vectors,)`, the first one at 0."""
    return np.arange(vectors) * recognizer.settings.frame_averaging
