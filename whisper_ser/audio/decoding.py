"""Audio files and arrays as mono float32 samples at a sampling rate."""

import contextlib
import numbers
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import soundfile
import soxr

from whisper_ser.errors import AudioFileError

MIN_SECONDS = 0.025
"""The shortest recording: one analysis window of Whisper's feature extractor."""
MIN_PEAK_TO_PEAK = 2.0**-15
"""A recording with a smaller range counts as silent: the smallest step of 16-bit audio."""
MAX_MAGNITUDE = 1e12
"""The largest sample allowed, where full scale is 1. Integers read as floats reach 2e9; larger sums could overflow."""
MIN_RATE, MAX_RATE = 1000, 10**6
"""Sampling rates allowed, in hertz. A header may claim any: at 1 Hz a small file would be days of audio."""
MAX_HOURS = 6
"""The longest file that is read into memory: a few bytes of FLAC can decode to hours."""
BLOCK_SECONDS = 60
BLOCK_SAMPLES = 2**24
"""The most samples read at a time, over all channels: a header may claim any length and any number of channels."""
READER_ERRORS = (soundfile.SoundFileError, OSError, TypeError, ValueError)
"""Raised by soundfile: TypeError for headerless .raw, ValueError where the header does not give the length."""
Audio: TypeAlias = str | Path | BinaryIO | np.ndarray
"""A path, an opened file, or samples `(samples,)` or `(samples, channels)` in [-1, 1]."""


def read_audio(path: str | Path, sampling_rate: int = 16000) -> np.ndarray:
    """Returns the file as float32 `(samples,)` at `sampling_rate` hertz, its channels averaged.

    libsndfile reads WAV, FLAC, OGG, MP3, AIFF and more, at any rate. Where torchcodec is installed, FFmpeg reads other
    formats such as M4A, and the audio of videos.

    Raises:
        AudioFileError: the file is unreadable, empty, silent, shorter than 25 ms or longer than 6 hours, has an
            impossible sampling rate, or samples that are NaN, infinite or beyond 1e12.
    """
    name, parts, samples = str(path), [], 0
    with _opened(path, name) as recording:
        rate = recording.rate
        for block in _mono(recording, name):
            samples += len(block)
            if samples > MAX_HOURS * 3600 * rate:
                raise AudioFileError(name, f"is longer than {MAX_HOURS} hours: cut it into utterances")
            parts.append(block)
    mono = np.concatenate(parts)
    if np.ptp(mono) < MIN_PEAK_TO_PEAK:
        raise AudioFileError(name, "is silent")
    return mono if rate == sampling_rate else soxr.resample(mono, rate, sampling_rate)


def decode(
    audio: Audio, name: str, sampling_rate: int, channel: int | None = None, array_rate: int | None = None
) -> Iterator[np.ndarray]:
    """Yields mono float32 blocks `(samples,)` at `sampling_rate` hertz.

    Args:
        audio: as `read_audio` reads it, an opened file of a format that libsndfile reads, or an array.
        name: of the audio, for error messages.
        channel: the channel to take, counted from 1; `None` averages all.
        array_rate: sampling rate of an array, in hertz; `None` stands for `sampling_rate`.

    Raises:
        AudioFileError: the audio is unreadable, empty or shorter than 25 ms, has an impossible sampling rate, no such
            channel, or samples that are NaN, infinite or beyond 1e12.
    """
    with _opened(audio, name, sampling_rate if array_rate is None else array_rate) as recording:
        resampler = Resampler(recording.rate, sampling_rate)
        for block in _mono(recording, name, channel):
            yield resampler.feed(block)
        yield resampler.finish()


def channel_count(audio: Audio, name: str) -> int:
    """Returns the number of channels; raises `AudioFileError` if the audio cannot be read."""
    with _opened(audio, name) as recording:
        return recording.channels


class Resampler:
    """Resamples mono blocks; the result does not depend on how the audio is cut into blocks."""

    def __init__(self, rate: int, sampling_rate: int) -> None:
        self._stream = None if rate == sampling_rate else soxr.ResampleStream(rate, sampling_rate, 1)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def finish(self) -> np.ndarray:
        """Returns the last samples, which the filter has held back."""
        nothing = np.empty(0, np.float32)
        return nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)


class _Recording(NamedTuple):
    """Audio that is ready to be read; its blocks are float32 `(frames, channels)`."""

    rate: int
    channels: int
    blocks: Iterator[np.ndarray]


@contextlib.contextmanager
def _opened(audio: Audio, name: str, array_rate: Any = MIN_RATE) -> Iterator[_Recording]:
    if isinstance(audio, np.ndarray):
        yield _in_blocks(audio, array_rate, name)
        return
    try:
        file = _sound_file(audio, name)
    except AudioFileError:
        decoded = read_with_torchcodec(audio) if isinstance(audio, str | Path) and os.path.isfile(audio) else None
        if decoded is None:
            raise
        yield _in_blocks(*decoded, name)
        return
    with file:
        check_rate(name, file.samplerate)
        yield _Recording(file.samplerate, file.channels, _blocks_of(file, name))


def _sound_file(audio: str | Path | BinaryIO, name: str) -> soundfile.SoundFile:
    if isinstance(audio, str | Path):
        check_file(audio, name)
    try:
        if not isinstance(audio, str | Path):
            audio.seek(0)
        # As bytes: names need not be UTF-8.
        return soundfile.SoundFile(os.fsencode(audio) if isinstance(audio, str | Path) else audio)
    except READER_ERRORS as error:
        raise _unreadable(name, error) from error


def _blocks_of(file: soundfile.SoundFile, name: str) -> Iterator[np.ndarray]:
    """Yields blocks until the data ends, whatever length the header claims."""
    frames = max(1, min(BLOCK_SECONDS * file.samplerate, BLOCK_SAMPLES // file.channels))
    try:
        while len(block := file.read(frames, dtype="float32", always_2d=True)):
            yield block
    except READER_ERRORS as error:
        raise _unreadable(name, error) from error


def _in_blocks(samples: np.ndarray, rate: Any, name: str) -> _Recording:
    check_rate(name, rate)
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or samples.shape[1:] == (0,):
        raise AudioFileError(
            name, f"is {samples.dtype} {samples.shape}; expected floats in [-1, 1], (samples,) or (samples, channels)"
        )
    columns = samples.astype(np.float32, copy=False)
    columns = columns[:, None] if columns.ndim == 1 else columns
    step = BLOCK_SECONDS * rate
    return _Recording(rate, columns.shape[1], (columns[i : i + step] for i in range(0, len(columns), step)))


def _mono(recording: _Recording, name: str, channel: int | None = None) -> Iterator[np.ndarray]:
    """Yields the blocks as `(samples,)`, checked: one channel, or the mean of all."""
    check_channel(name, channel, recording.channels)
    samples = 0
    for block in recording.blocks:
        check_samples(name, block)
        samples += len(block)
        yield block.mean(axis=1) if channel is None else np.ascontiguousarray(block[:, channel - 1])
    if samples == 0:
        raise AudioFileError(name, "has no samples")
    if samples < MIN_SECONDS * recording.rate:
        milliseconds = 1000 * samples / recording.rate
        raise AudioFileError(name, f"is too short: {milliseconds:.3g} ms, at least 25 ms are needed")


def _unreadable(name: str, error: Exception) -> AudioFileError:
    # libsndfile repeats the path in str(error), not in error_string.
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return AudioFileError(name, f"cannot be read as audio ({reason})")


def check_file(path: str | Path, name: str) -> None:
    """Raises `AudioFileError` unless this is a file that can be opened: opening a named pipe would block."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, ValueError):  # ValueError: a zero byte in the name
        raise AudioFileError(name, "does not exist") from None
    except OSError as error:
        raise AudioFileError(name, f"cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise AudioFileError(name, "is not a regular file")


def check_rate(name: str | Path, rate: Any) -> None:
    """Raises `AudioFileError` for an impossible sampling rate."""
    if not isinstance(rate, numbers.Integral) or not MIN_RATE <= int(rate) <= MAX_RATE:
        raise AudioFileError(
            name, f"has a sampling rate of {rate} Hz; expected an integer from {MIN_RATE} to {MAX_RATE}"
        )


def check_channel(name: str | Path, channel: Any, channels: int) -> None:
    """Raises `AudioFileError` unless `channel` is `None` or a number from 1 to `channels`."""
    is_number = isinstance(channel, numbers.Integral) and not isinstance(channel, bool)
    if channel is not None and not (is_number and 1 <= channel <= channels):
        raise AudioFileError(name, f"has no channel {channel}: it has {channels}, counted from 1")


def check_samples(name: str | Path, samples: np.ndarray) -> None:
    """Raises `AudioFileError` for samples that are NaN, infinite or beyond `MAX_MAGNITUDE`."""
    if not np.isfinite(samples).all():
        raise AudioFileError(name, "has samples that are NaN or infinite")
    if samples.size and np.abs(samples).max() > MAX_MAGNITUDE:
        raise AudioFileError(name, f"has samples beyond {MAX_MAGNITUDE:g}, where full scale is 1: the file is damaged")


def read_with_torchcodec(path: str | Path) -> tuple[np.ndarray, int] | None:
    """Returns samples `(samples, channels)` and their rate, or `None` if torchcodec is missing or cannot read them."""
    try:
        from torchcodec.decoders import AudioDecoder

        decoded = AudioDecoder(path).get_all_samples()
    except (ImportError, OSError, RuntimeError, ValueError):  # RuntimeError: no FFmpeg, or no audio stream
        return None
    return decoded.data.numpy().T, int(decoded.sample_rate)


def reads_video() -> bool:
    """Returns whether the audio of videos can be read, with torchcodec and FFmpeg."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):  # RuntimeError: no FFmpeg
        return False
    return True
