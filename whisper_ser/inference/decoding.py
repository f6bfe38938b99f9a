"""Audio of any format, rate and length, in blocks at the rate a model reads: memory does not grow with the length."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import soundfile
import soxr

from whisper_ser.audio import (
    BLOCK_SAMPLES,
    SHORTEST_SECONDS,
    blocks_of,
    check_file,
    check_rate,
    check_samples,
    read_with_torchcodec,
)
from whisper_ser.errors import AudioFileError

BLOCK_SECONDS = 60

Audio: TypeAlias = str | Path | BinaryIO | np.ndarray
"""A path, an opened file, or samples `(samples,)` or `(samples, channels)` in [-1, 1]."""


def channel_count(audio: Audio, name: str) -> int:
    """Returns how many channels there are; raises `AudioFileError` if it cannot be read."""
    if isinstance(audio, np.ndarray):
        return _columns(audio, name).shape[1]
    try:
        with _opened(audio, name) as file:
            return file.channels
    except AudioFileError:
        if (decoded := _with_torchcodec(audio)) is None:
            raise
        return decoded[0].shape[1]


def decode(
    audio: Audio, name: str, sampling_rate: int, channel: int | None = None, array_rate: int | None = None
) -> Iterator[np.ndarray]:
    """Yields mono float32 blocks `(samples,)` at `sampling_rate` hertz.

    Args:
        audio: what libsndfile reads (WAV, FLAC, OGG, MP3, AIFF and more), in a path also what FFmpeg reads where
            torchcodec is installed, or an array.
        name: of the audio, for messages.
        channel: the channel to take, from 0; `None` averages all.
        array_rate: hertz of an array; `None` says `sampling_rate`.

    Raises:
        AudioFileError: unreadable, empty, shorter than 25 ms, of a rate that no recording has, or with samples that
            are NaN, infinite or beyond 1e12.
    """
    if isinstance(audio, np.ndarray):
        rate = sampling_rate if array_rate is None else array_rate
        check_rate(name, rate)
        columns = _columns(audio, name)
        step = BLOCK_SECONDS * rate
        yield from _mono(
            (columns[i : i + step] for i in range(0, len(columns), step)), name, rate, sampling_rate, channel
        )
        return
    try:
        opened = _opened(audio, name)
    except AudioFileError:
        if (decoded := _with_torchcodec(audio)) is None:
            raise
        yield from decode(decoded[0], name, sampling_rate, channel, decoded[1])
        return
    try:
        with opened as file:
            check_rate(name, file.samplerate)
            frames = max(1, min(BLOCK_SECONDS * file.samplerate, BLOCK_SAMPLES // file.channels))
            yield from _mono(blocks_of(file, frames), name, file.samplerate, sampling_rate, channel)
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(name, error) from error


class Resampler:
    """Turns mono blocks of one rate into blocks of another, the same however the audio is cut into blocks."""

    def __init__(self, rate: int, sampling_rate: int) -> None:
        self._stream = None if rate == sampling_rate else soxr.ResampleStream(rate, sampling_rate, 1)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def finish(self) -> np.ndarray:
        """Returns what the filter still held back."""
        nothing = np.empty(0, np.float32)
        return nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)


def _mono(
    blocks: Iterable[np.ndarray], name: str, rate: int, sampling_rate: int, channel: int | None
) -> Iterator[np.ndarray]:
    resampler, samples = Resampler(rate, sampling_rate), 0
    for block in blocks:
        if channel is not None and channel >= block.shape[1]:
            raise AudioFileError(name, f"has no channel {channel + 1}: there are {block.shape[1]}")
        check_samples(name, block)
        samples += len(block)
        yield resampler.feed(block.mean(axis=1) if channel is None else np.ascontiguousarray(block[:, channel]))
    if samples == 0:
        raise AudioFileError(name, "has no samples")
    if samples < SHORTEST_SECONDS * rate:
        raise AudioFileError(name, f"is too short: {1000 * samples / rate:.3g} ms, at least 25 ms are needed")
    yield resampler.finish()


def _opened(audio: str | Path | BinaryIO, name: str) -> soundfile.SoundFile:
    if isinstance(audio, str | Path):
        check_file(audio, name)
    try:
        if not isinstance(audio, str | Path):
            audio.seek(0)
        # As bytes, for names that are no UTF-8.
        return soundfile.SoundFile(os.fsencode(audio) if isinstance(audio, str | Path) else audio)
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: headerless .raw
        raise _unreadable(name, error) from error


def _with_torchcodec(audio: Audio) -> tuple[np.ndarray, int] | None:
    there = isinstance(audio, str | Path) and os.path.isfile(audio)
    return read_with_torchcodec(audio) if there else None  # type: ignore[arg-type]


def _unreadable(name: str, error: Exception) -> AudioFileError:
    # Without the path, which libsndfile puts before what it says.
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return AudioFileError(name, f"cannot be read as audio ({reason})")


def _columns(samples: np.ndarray, name: str) -> np.ndarray:
    """Returns an array as float32 `(samples, channels)`."""
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or samples.shape[1:] == (0,):
        raise AudioFileError(
            name, f"is {samples.dtype} {samples.shape}; expected floats in [-1, 1], (samples,) or (samples, channels)"
        )
    columns = samples.astype(np.float32, copy=False)
    return columns[:, None] if columns.ndim == 1 else columns
