"""Audio files and arrays as mono float32 samples at a sampling rate."""

import numbers
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import soundfile
import soxr

from whisper_ser.errors import AudioFileError

MIN_SECONDS = 0.025
"""One analysis window of Whisper's feature extractor."""
MIN_PEAK_TO_PEAK = 2.0**-15
"""A recording of less is silent: the smallest step of 16-bit audio."""
MAX_MAGNITUDE = 1e12
"""Of a sample, where full scale is 1. Integers read as floats reach 2e9; beyond this limit sums could overflow."""
MIN_RATE, MAX_RATE = 1000, 10**6
"""Hertz. A header may claim any rate: at 1 Hz a small file would be days of audio."""
MAX_HOURS = 6
"""The longest file that is read into memory: a few bytes of FLAC may decode to hours."""
BLOCK_SAMPLES = 2**24
"""The most samples read at a time, over all channels: a header may claim any length and any number of channels."""
READER_ERRORS = (soundfile.SoundFileError, OSError, TypeError, ValueError)
"""Raised by soundfile: TypeError for headerless .raw, ValueError where the header does not give the length."""


def read_audio(path: str | Path, sampling_rate: int = 16000) -> np.ndarray:
    """Returns the file as float32 `(samples,)` at `sampling_rate` hertz, its channels averaged.

    libsndfile reads WAV, FLAC, OGG, MP3, AIFF and more, at any rate. Where torchcodec is installed, FFmpeg reads other
    formats such as M4A, and the audio of videos.

    Raises:
        AudioFileError: the file is unreadable, empty, silent, shorter than 25 ms or longer than 6 hours, has an
            impossible sampling rate, or samples that are NaN, infinite or beyond 1e12.
    """
    check_file(path, str(path))
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            check_rate(path, rate)
            mono = _joined(path, blocks_of(file, BLOCK_SAMPLES // file.channels), rate)
    except AudioFileError:
        raise
    except READER_ERRORS as error:
        decoded = read_with_torchcodec(path)
        if decoded is None:
            raise _unreadable(path, error) from error
        samples, rate = decoded
        check_rate(path, rate)
        mono = _joined(path, iter([samples]), rate)
    _check_length(path, len(mono), rate)
    if np.ptp(mono) < MIN_PEAK_TO_PEAK:
        raise AudioFileError(path, "is silent")
    return mono if rate == sampling_rate else soxr.resample(mono, rate, sampling_rate)


def blocks_of(file: soundfile.SoundFile, frames: int) -> Iterator[np.ndarray]:
    """Yields float32 blocks `(frames, channels)` until the data ends, whatever length the header claims."""
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield block


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


def _joined(path: str | Path, blocks: Iterator[np.ndarray], rate: int) -> np.ndarray:
    """Returns the blocks as one waveform `(samples,)`, checked, with the channels averaged."""
    parts, samples = [np.empty(0, np.float32)], 0
    for block in blocks:
        check_samples(path, block)
        samples += len(block)
        if samples > MAX_HOURS * 3600 * rate:
            raise AudioFileError(path, f"is longer than {MAX_HOURS} hours: cut it into utterances")
        parts.append(block.mean(axis=1))
    return np.concatenate(parts)


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


def _unreadable(path: str | Path, error: Exception) -> AudioFileError:
    # libsndfile repeats the path in str(error), not in error_string.
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return AudioFileError(path, f"cannot be read as audio ({reason})")


def _check_length(path: str | Path, samples: int, rate: int) -> None:
    if samples == 0:
        raise AudioFileError(path, "has no samples")
    if samples < MIN_SECONDS * rate:
        raise AudioFileError(path, f"is too short: {1000 * samples / rate:.3g} ms, at least 25 ms are needed")


BLOCK_SECONDS = 60

Audio: TypeAlias = str | Path | BinaryIO | np.ndarray
"""A path, an opened file, or samples `(samples,)` or `(samples, channels)` in [-1, 1]."""


def channel_count(audio: Audio, name: str) -> int:
    """Returns the number of channels; raises `AudioFileError` if the audio cannot be read."""
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
        audio: a path or opened file of a format that libsndfile reads (WAV, FLAC, OGG, MP3, AIFF and more), or an
            array. Of paths, FFmpeg reads other formats where torchcodec is installed.
        name: of the audio, for error messages.
        channel: the channel to take, counted from 1; `None` averages all.
        array_rate: sampling rate of an array, in hertz; `None` stands for `sampling_rate`.

    Raises:
        AudioFileError: the audio is unreadable, empty or shorter than 25 ms, has an impossible sampling rate, no such
            channel, or samples that are NaN, infinite or beyond 1e12.
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
    """Resamples mono blocks; the result does not depend on how the audio is cut into blocks."""

    def __init__(self, rate: int, sampling_rate: int) -> None:
        self._stream = None if rate == sampling_rate else soxr.ResampleStream(rate, sampling_rate, 1)

    def feed(self, samples: np.ndarray) -> np.ndarray:
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def finish(self) -> np.ndarray:
        """Returns the last samples, which the filter has held back."""
        nothing = np.empty(0, np.float32)
        return nothing if self._stream is None else self._stream.resample_chunk(nothing, last=True)


def _mono(
    blocks: Iterable[np.ndarray], name: str, rate: int, sampling_rate: int, channel: int | None
) -> Iterator[np.ndarray]:
    resampler, samples = Resampler(rate, sampling_rate), 0
    for block in blocks:
        check_channel(name, channel, block.shape[1])
        check_samples(name, block)
        samples += len(block)
        yield resampler.feed(block.mean(axis=1) if channel is None else np.ascontiguousarray(block[:, channel - 1]))
    if samples == 0:
        raise AudioFileError(name, "has no samples")
    if samples < MIN_SECONDS * rate:
        raise AudioFileError(name, f"is too short: {1000 * samples / rate:.3g} ms, at least 25 ms are needed")
    yield resampler.finish()


def _opened(audio: str | Path | BinaryIO, name: str) -> soundfile.SoundFile:
    if isinstance(audio, str | Path):
        check_file(audio, name)
    try:
        if not isinstance(audio, str | Path):
            audio.seek(0)
        # As bytes: names need not be UTF-8.
        return soundfile.SoundFile(os.fsencode(audio) if isinstance(audio, str | Path) else audio)
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: headerless .raw
        raise _unreadable(name, error) from error


def _with_torchcodec(audio: Audio) -> tuple[np.ndarray, int] | None:
    there = isinstance(audio, str | Path) and os.path.isfile(audio)
    return read_with_torchcodec(audio) if there else None  # type: ignore[arg-type]


def _columns(samples: np.ndarray, name: str) -> np.ndarray:
    """Returns an array as float32 `(samples, channels)`."""
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or samples.shape[1:] == (0,):
        raise AudioFileError(
            name, f"is {samples.dtype} {samples.shape}; expected floats in [-1, 1], (samples,) or (samples, channels)"
        )
    columns = samples.astype(np.float32, copy=False)
    return columns[:, None] if columns.ndim == 1 else columns
