"""Audio files to mono waveforms at the rate a model reads."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from whisper_ser.errors import AudioFileError

SHORTEST_SECONDS = 0.025
"""One analysis window of Whisper's front end: less is a click, not speech."""
SILENCE = 2.0**-15
"""Peak-to-peak amplitude below which a file is silent: the smallest step of 16-bit audio."""
UNREADABLE = (soundfile.SoundFileError, OSError, TypeError, ValueError)
"""What the reader raises: TypeError for headerless .raw, ValueError for a header that does not tell the length."""


def read_audio(path: str | Path, sampling_rate: int = 16000) -> np.ndarray:
    """Returns the file as float32 `(samples,)` at `sampling_rate` hertz, its channels averaged.

    Reads what libsndfile reads: WAV, FLAC, OGG, MP3, AIFF and more, at any rate; where torchcodec is installed, what
    FFmpeg reads besides: M4A, and the sound of videos.

    Raises:
        AudioFileError: unreadable, empty, silent, shorter than 25 ms, or with samples that are NaN or infinite.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except UNREADABLE as error:
        decoded = read_with_torchcodec(path)
        if decoded is None:
            raise _unreadable(path, error) from error
        samples, rate = decoded
    if not np.isfinite(samples).all():
        raise AudioFileError(path, "has samples that are NaN or infinite")
    mono = samples.mean(axis=1)
    _check_length(path, len(mono), rate)
    if np.ptp(mono) < SILENCE:
        raise AudioFileError(path, "is silent")
    return mono if rate == sampling_rate else soxr.resample(mono, rate, sampling_rate)


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
    return AudioFileError(path, f"cannot be read as audio ({str(error).removeprefix('Error opening ')})")


def _check_length(path: str | Path, samples: int, rate: int) -> None:
    if samples == 0:
        raise AudioFileError(path, "has no samples")
    if samples < SHORTEST_SECONDS * rate:
        raise AudioFileError(path, f"is too short: {1000 * samples / rate:.3g} ms, at least 25 ms are needed")
