"""Finds duplicate recordings, whatever their names, codecs, gains and sampling rates.

Candidate pairs are found by comparing sketches of fingerprints, which are small enough to keep for every file, with
matrix products. The files of candidate pairs are read again, to compare their fingerprints and then their waveforms at
the best lag.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.audio_index import (
    FINGERPRINT_BINS,
    MAX_HERTZ,
    MIN_HERTZ,
    SAMPLING_RATE,
    AudioRecord,
    fingerprint,
)

MIN_SKETCH_SIMILARITY = 0.15
"""Estimates from sketches have an error of 0.02 (standard deviation; at most 0.11 in a million pairs of real
recordings), so hardly any pair above `MIN_FINGERPRINT_SIMILARITY` is missed."""
MIN_FINGERPRINT_SIMILARITY = 0.25
"""Among all pairs of RAVDESS and of four emotions of EmoDB, different recordings have at most 0.21. Recordings encoded
again as MP3 or GSM at 8 kHz and 8 to 13 kbit/s, or as Opus at 16, have at least 0.5."""
MIN_CORRELATION = 0.65
"""Of waveforms. Different takes in these corpora have at most 0.54, recordings encoded again as above at least 0.9,
and as Opus at its lowest bitrate 0.69."""
MAX_SECONDS_APART = 0.5
"""The largest difference between the durations of duplicates: MP3 at 8 kHz adds up to 0.22 s."""
TILE = 1024
"""Sketches compared with as many others at a time; as floats they take 13 MB."""
FINGERPRINTS_KEPT = 512


class Duplicate(NamedTuple):
    """Two files that hold the same recording, and the evidence."""

    one: str
    other: str
    evidence: str


def find_duplicates(records: Sequence[AudioRecord]) -> list[Duplicate]:
    """Returns the pairs of files that hold the same recording.

    Memory beyond `records` is bounded. Files are read again only for pairs whose sketches are similar.
    """
    found = []
    full_fingerprint = lru_cache(FINGERPRINTS_KEPT)(lambda path: fingerprint(read_audio(path, SAMPLING_RATE)))
    for i, j in sorted({*_equal_samples(records), *_similar_sketches(records)}):
        one, other = records[i], records[j]
        if one.file_hash == other.file_hash:
            found.append(Duplicate(one.path, other.path, "identical bytes"))
        elif one.sample_hash == other.sample_hash:
            found.append(Duplicate(one.path, other.path, "identical samples"))
        elif full_fingerprint(one.path) @ full_fingerprint(other.path) >= MIN_FINGERPRINT_SIMILARITY:
            correlation = _correlation(one.path, other.path)
            if correlation >= MIN_CORRELATION:
                found.append(Duplicate(one.path, other.path, f"the same recording, correlation {correlation:.2f}"))
    return found


def _equal_samples(records: Sequence[AudioRecord]) -> Iterator[tuple[int, int]]:
    """Yields pairs of indices of files with equal samples."""
    same: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        same[record.sample_hash].append(index)
    for indices in same.values():
        yield from combinations(indices, 2)


def _similar_sketches(records: Sequence[AudioRecord]) -> Iterator[tuple[int, int]]:
    """Yields pairs of indices of recordings of similar duration whose sketches are similar."""
    order = sorted(range(len(records)), key=lambda index: records[index].seconds)
    seconds = np.array([records[index].seconds for index in order])
    sketches = np.stack([np.frombuffer(records[index].sketch, np.uint8) for index in order])
    # The sketches of two vectors with the angle a between them differ in a / pi of their bits (Charikar 2002).
    least = FINGERPRINT_BINS * (1 - 2 * np.arccos(MIN_SKETCH_SIMILARITY) / np.pi)
    for start in range(0, len(order), TILE):
        rows = _signs(sketches[start : start + TILE])
        # Sorted by duration, candidates for a tile are in the tile itself and in a range after it.
        longest = seconds[start : start + TILE][-1] + MAX_SECONDS_APART
        for first in range(start, int(np.searchsorted(seconds, longest, side="right")), TILE):
            columns = rows if first == start else _signs(sketches[first : first + TILE])
            for row, column in zip(*np.nonzero(rows @ columns.T >= least), strict=True):
                i, j = start + row, first + column
                if i < j and seconds[j] - seconds[i] <= MAX_SECONDS_APART:
                    one, other = sorted((order[i], order[j]))
                    yield one, other


def _signs(sketches: np.ndarray) -> np.ndarray:
    """Returns packed bits `(files, bytes)` as 1 and -1, float32 `(files, bits)`."""
    return 2 * np.unpackbits(sketches, axis=1).astype(np.float32) - 1


def _correlation(one: str, other: str) -> float:
    """Returns the normalised cross-correlation of two files in the band of the fingerprint at the best lag, 0 to 1."""
    waveforms = [read_audio(path, SAMPLING_RATE) for path in (one, other)]
    size = 1 << sum(map(len, waveforms)).bit_length()
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLING_RATE)
    band = (frequencies >= MIN_HERTZ) & (frequencies <= MAX_HERTZ)
    spectra = [np.fft.rfft(waveform, size) * band for waveform in waveforms]
    by_lag = np.fft.irfft(spectra[0] * spectra[1].conj(), size)
    energies = [np.square(np.fft.irfft(spectrum, size)).sum() for spectrum in spectra]
    return float(np.abs(by_lag).max() / max(np.sqrt(energies[0] * energies[1]), 1e-12))
