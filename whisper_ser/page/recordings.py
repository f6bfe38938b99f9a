"""What the page is given: recordings of bounded size and length."""

from pathlib import Path

import numpy as np

from whisper_ser.audio.decoding import decode
from whisper_ser.errors import AudioFileError

LARGEST_BYTES = 100 * 2**20
LONGEST_MINUTES = 30
NAME = "This recording"


def read_recording(path: str | Path, sampling_rate: int) -> np.ndarray:
    """Returns an uploaded file as mono float32 `(samples,)` at `sampling_rate` hertz.

    Raises:
        AudioFileError: it is larger or longer than allowed, whatever its header says, or no audio.
    """
    if Path(path).stat().st_size > LARGEST_BYTES:
        raise AudioFileError(NAME, f"is larger than {LARGEST_BYTES // 2**20} MB")
    samples, blocks = 0, []
    # Opened here: libsndfile tells the kind of a file by its name, which is the visitor's, if it is given one.
    with open(path, "rb") as file:
        for block in decode(file, NAME, sampling_rate):
            samples += len(block)
            if samples > LONGEST_MINUTES * 60 * sampling_rate:
                raise AudioFileError(NAME, f"is longer than {LONGEST_MINUTES} minutes")
            blocks.append(block)
    return np.concatenate(blocks)
