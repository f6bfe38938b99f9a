"""Audio files to mono waveforms at the rate a model reads."""

import numbers
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from whisper_ser.errors import AudioFileError

SHORTEST_SECONDS = 0.025
"""One analysis window of Whisper's front end: less is a click, not speech."""
SILENCE = 2.0**-15
"""Peak-to-peak amplitude below which a file is silent: the smallest step of 16-bit audio."""
LOUDEST = 1e12
"""Magnitude beyond which a sample is damage, not sound, and sums over samples could overflow. Full scale is 1; whole
numbers taken for floats reach 2e9."""
LOWEST_RATE, HIGHEST_RATE = 1000, 10**6
"""Hertz. A header may claim any rate; at 1 Hz a small file would be days of audio."""
LONGEST_HOURS = 6
"""That are read into memory at once: a few bytes of FLAC may stand for hours."""
BLOCK_SAMPLES = 2**24
"""Read at a time at most, of all channels together: a header may claim any length and number of channels."""
UNREADABLE = (soundfile.SoundFileError, OSError, TypeError, ValueError)
"""What the reader raises: TypeError for headerless .raw, ValueError for a header that does not tell the length."""


def read_audio(path: str | Path, sampling_rate: int = 16000) -> np.ndarray:
    """Returns the file as float32 `(samples,)` at `sampling_rate` hertz, its channels averaged.

    Reads what libsndfile reads: WAV, FLAC, OGG, MP3, AIFF and more, at any rate; where torchcodec is installed, what
    FFmpeg reads besides: M4A, and the sound of videos.

    Raises:
        AudioFileError: unreadable, empty, silent, shorter than 25 ms, longer than 6 hours, of a rate that no recording
            has, or with samples that are NaN, infinite or beyond 1e12.
    """
    check_file(path, str(path))
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            check_rate(path, rate)
            mono = _joined(path, blocks_of(file, BLOCK_SAMPLES // file.channels), rate)
    except AudioFileError:
        raise
    except UNREADABLE as error:
        decoded = read_with_torchcodec(path)
        if decoded is None:
            raise _unreadable(path, error) from error
        samples, rate = decoded
        check_rate(path, rate)
        mono = _joined(path, iter([samples]), rate)
    _check_length(path, len(mono), rate)
    if np.ptp(mono) < SILENCE:
        raise AudioFileError(path, "is silent")
    return mono if rate == sampling_rate else soxr.resample(mono, rate, sampling_rate)


def blocks_of(file: soundfile.SoundFile, frames: int) -> Iterator[np.ndarray]:
    """Yields float32 blocks `(frames, channels)`, the last one shorter, of what is there, whatever the header says."""
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield block


def check_file(path: str | Path, name: str) -> None:
    """Raises `AudioFileError` for what cannot be opened, or is no file: opening a named pipe would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, ValueError):  # ValueError: a zero byte in the name
        raise AudioFileError(name, "is not there") from None
    except OSError as error:
        raise AudioFileError(name, f"cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise AudioFileError(name, "is no file")


def check_rate(name: str | Path, rate: Any) -> None:
    """Raises `AudioFileError` for a sampling rate that no recording of speech has."""
    if not isinstance(rate, numbers.Integral) or not LOWEST_RATE <= int(rate) <= HIGHEST_RATE:
        raise AudioFileError(
            name, f"has a sampling rate of {rate} Hz; expected a whole number from {LOWEST_RATE} to {HIGHEST_RATE}"
        )


def check_samples(name: str | Path, samples: np.ndarray) -> None:
    """Raises `AudioFileError` for samples that are NaN, infinite, or too large to be sound."""
    if not np.isfinite(samples).all():
        raise AudioFileError(name, "has samples that are NaN or infinite")
    if samples.size and np.abs(samples).max() > LOUDEST:
        raise AudioFileError(name, f"has samples beyond {LOUDEST:g}, where full scale is 1: it is damaged")


def _joined(path: str | Path, blocks: Iterator[np.ndarray], rate: int) -> np.ndarray:
    """Returns the blocks, checked and their channels averaged, as one `(samples,)`."""
    parts, samples = [np.empty(0, np.float32)], 0
    for block in blocks:
        check_samples(path, block)
        samples += len(block)
        if samples > LONGEST_HOURS * 3600 * rate:
            raise AudioFileError(path, f"is longer than {LONGEST_HOURS} hours: cut it into utterances")
        parts.append(block.mean(axis=1))
    return np.concatenate(parts)


def read_with_torchcodec(path: str | Path) -> tuple[np.ndarray, int] | None:
    """Returns samples `(samples, channels)` and their rate; `None` where torchcodec is absent or cannot read it."""
    try:
        from torchcodec.decoders import AudioDecoder

        decoded = AudioDecoder(path).get_all_samples()
    except (ImportError, OSError, RuntimeError, ValueError):  # RuntimeError: no FFmpeg, or no audio stream
        return None
    return decoded.data.numpy().T, int(decoded.sample_rate)


def reads_video() -> bool:
    """Whether torchcodec is there, and with it the sound of videos."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):  # RuntimeError: no FFmpeg
        return False
    return True


def _unreadable(path: str | Path, error: Exception) -> AudioFileError:
    # Without the path, which libsndfile puts before what it says.
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return AudioFileError(path, f"cannot be read as audio ({reason})")


def _check_length(path: str | Path, samples: int, rate: int) -> None:
    if samples == 0:
        raise AudioFileError(path, "has no samples")
    if samples < SHORTEST_SECONDS * rate:
        raise AudioFileError(path, f"is too short: {1000 * samples / rate:.3g} ms, at least 25 ms are needed")
