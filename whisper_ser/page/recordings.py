"""Uploaded recordings, of bounded size and length."""

from pathlib import Path

import numpy as np

from whisper_ser.audio.decoding import decode
from whisper_ser.errors import AudioFileError

MAX_BYTES = 100 * 2**20
MAX_MINUTES = 30
NAME = "This recording"


def read_recording(path: str | Path, sampling_rate: int) -> np.ndarray:
    """Returns an uploaded file as mono float32 `(samples,)` at `sampling_rate` hertz.

    Raises:
        AudioFileError: it is larger or longer than allowed, whatever its header says, or no audio.
    """
    if Path(path).stat().st_size > MAX_BYTES:
        raise AudioFileError(NAME, f"is larger than {MAX_BYTES // 2**20} MB")
    samples, blocks = 0, []
    # As an open file: given a path, libsndfile would guess the format by the name, which is the visitor's.
    with open(path, "rb") as file:
        for block in decode(file, NAME, sampling_rate):
            samples += len(block)
            if samples > MAX_MINUTES * 60 * sampling_rate:
                raise AudioFileError(NAME, f"is longer than {MAX_MINUTES} minutes")
            blocks.append(block)
    return np.concatenate(blocks)
