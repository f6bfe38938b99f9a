"""The index of audio files, each decoded once before training: duration, hashes and a sketch of the fingerprint.

The fingerprint is the fine structure of the magnitude spectrum of the whole utterance. Silence before and after it,
gain, resampling and codecs hardly change it. The envelope of the spectrum is divided out, because two takes of one
sentence by one actor share it.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from whisper_ser.audio.decoding import read_audio
from whisper_ser.errors import AudioFileError, CorpusError, format_problems

SAMPLING_RATE = 16000
BINS_PER_HERTZ = 2
MIN_HERTZ, MAX_HERTZ = 200, 1800
"""The band of the fingerprint: above mains hum, and strong enough in speech to survive every codec."""
FINGERPRINT_BINS = (MAX_HERTZ - MIN_HERTZ) * BINS_PER_HERTZ
NEIGHBOUR_HERTZ = 10
"""A bin is compared with the mean of all bins up to this far on either side."""
SKETCH_SIGNS = np.random.default_rng(0).choice([-1.0, 1.0], FINGERPRINT_BINS)


class AudioRecord(NamedTuple):
    """The facts about an audio file in the index.

    Attributes:
        path: of the file.
        file_hash: SHA-256 of its bytes.
        sample_hash: SHA-256 of its samples as decoded to mono at 16 kHz, independent of the container.
        seconds: its duration.
        sketch: 400 bytes from which `duplicates` estimates how similar two fingerprints are.
    """

    path: str
    file_hash: str
    sample_hash: str
    seconds: float
    sketch: bytes


def index_audio(paths: list[str], progress: bool = True) -> dict[str, AudioRecord]:
    """Returns the record of each file, by path.

    Raises:
        CorpusError: lists every file that cannot be used, with the reason.
    """
    records, unusable = scan_audio(paths, progress)
    refuse_unusable(unusable, len(paths))
    return records


def scan_audio(paths: list[str], progress: bool = True) -> tuple[dict[str, AudioRecord], dict[str, str]]:
    """Returns the record of each usable file, and the reason why each other file cannot be used.

    Each of several processes decodes its share of the files; all of them get all records.
    """
    process = PartialState()
    mine = paths[process.process_index :: process.num_processes]
    bar = tqdm(mine, desc="checking audio", unit="file", disable=not (progress and process.is_main_process))
    results: dict[str, AudioRecord | str] = dict(gather_object([(path, _scan(path)) for path in bar]))
    records = {path: record for path in paths if isinstance(record := results[path], AudioRecord)}
    return records, {path: reason for path in paths if isinstance(reason := results[path], str)}


def refuse_unusable(unusable: dict[str, str], files: int) -> None:
    """Raises `CorpusError` if any of the `files` files of a corpus cannot be used; `unusable` has the reasons."""
    if unusable:
        raise CorpusError(
            f"{len(unusable)} of {files} audio files cannot be used; repair them or take them out of the table:\n"
            + format_problems([f"{path} {reason}" for path, reason in unusable.items()])
        )


def _scan(path: str) -> AudioRecord | str:
    """Returns the record of a file, or the reason why it cannot be used."""
    try:
        samples = read_audio(path, SAMPLING_RATE)
    except AudioFileError as error:
        return error.reason
    with open(path, "rb") as file:
        file_hash = hashlib.file_digest(file, "sha256").hexdigest()
    sample_hash = hashlib.sha256(samples.tobytes()).hexdigest()
    return AudioRecord(path, file_hash, sample_hash, len(samples) / SAMPLING_RATE, _sketch(fingerprint(samples)))


def _sketch(vector: np.ndarray) -> bytes:
    """Returns the signs of as many random projections of the fingerprint as it has bins, 8 in a byte.

    A Fourier transform after random changes of sign is a random rotation (Ailon and Chazelle 2009).
    """
    spectrum = np.fft.rfft(vector * SKETCH_SIGNS)
    return np.packbits(np.concatenate([spectrum.real[:-1], spectrum.imag[1:]]) > 0).tobytes()


def fingerprint(samples: np.ndarray) -> np.ndarray:
    """Returns the fine structure of the magnitude spectrum, float32 `(3200,)` of norm 1.

    The dot product of two fingerprints is the similarity of the recordings. The sum of all stretches of 2 s has the
    spectrum of the whole recording at two bins a hertz, however long it is. No window cuts anything off, so leading
    silence and the delay of a codec change no magnitude.

    Args:
        samples: mono `(samples,)` at 16 kHz.
    """
    size = SAMPLING_RATE * BINS_PER_HERTZ
    folded = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size).sum(0)
    reach = NEIGHBOUR_HERTZ * BINS_PER_HERTZ
    band = slice(MIN_HERTZ * BINS_PER_HERTZ - reach, MAX_HERTZ * BINS_PER_HERTZ + reach)
    magnitude = np.abs(np.fft.rfft(folded)[band]).astype(np.float64)
    total = np.cumsum(np.pad(magnitude, (1, 0)))
    width = 2 * reach + 1
    mean = (total[width:] - total[:-width]) / width
    structure = magnitude[reach : len(magnitude) - reach] / (mean + 1e-12) - 1
    return (structure / max(float(np.linalg.norm(structure)), 1e-12)).astype(np.float32)
