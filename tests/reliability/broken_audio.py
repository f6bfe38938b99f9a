"""Audio files that somebody, or a broken disk, has tampered with: the same for a seed everywhere."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from conftest import speechlike

FORMATS = (
    ("wav", "PCM_16"),
    ("wav", "FLOAT"),
    ("wav", "PCM_U8"),
    ("wav", "IMA_ADPCM"),
    ("wav", "GSM610"),
    ("flac", "PCM_16"),
    ("ogg", "VORBIS"),
    ("ogg", "OPUS"),
    ("mp3", "MPEG_LAYER_III"),
    ("aiff", "PCM_16"),
    ("au", "PCM_16"),
    ("caf", "PCM_16"),
    ("w64", "PCM_16"),
    ("rf64", "PCM_16"),
)
RATES = (8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000)
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 2**64 - 1)
HEADER = 128
"""Bytes in which most of what a header says lies."""


def originals(folder: Path) -> list[Path]:
    """Writes one good file of each format, of different rates and channels, and returns them."""
    folder.mkdir(parents=True)
    files = []
    for number, (suffix, subtype) in enumerate(FORMATS):
        rate = {"GSM610": 8000, "OPUS": 48000, "MPEG_LAYER_III": 44100}.get(subtype, RATES[number % len(RATES)])
        channels = 1 if subtype in ("GSM610", "IMA_ADPCM") else 1 + number % 2
        samples = np.interp(np.arange(round(0.3 * rate)) * 16000 / rate, np.arange(4800), speechlike(0.3))
        path = folder / f"{subtype.lower()}.{suffix}"
        with soundfile.SoundFile(path, "w", rate, channels, subtype, format=None if suffix != "rf64" else "RF64") as f:
            f.write(np.stack([samples] * channels, axis=1))
        files.append(path)
    return files


def broken(sources: list[Path], folder: Path, cases: int, seed: int = 0) -> Iterator[tuple[str, Path]]:
    """Yields what was done, and the file; a file is gone when the next one comes."""
    rng = random.Random(seed)
    contents = {path: path.read_bytes() for path in sources}
    for number in range(cases):
        # In turn, so that each is done to each format.
        source = sources[number % len(sources)]
        spoil = SPOILERS[number // len(sources) % len(SPOILERS)]
        suffix = rng.choice(sources).suffix if rng.random() < 0.1 else source.suffix
        path = folder / f"{number}{suffix}"
        path.write_bytes(spoil(rng, contents[source], contents[rng.choice(sources)]))
        yield f"case {number}: {spoil.__name__} of {source.name} as {suffix}", path
        path.unlink()


def truncated(rng: random.Random, good: bytes, other: bytes) -> bytes:
    return good[: rng.choice([rng.randrange(HEADER), rng.randrange(len(good))])]


def flipped_in_the_header(rng: random.Random, good: bytes, other: bytes) -> bytes:
    return _flipped(rng, good, min(HEADER, len(good)))


def flipped_anywhere(rng: random.Random, good: bytes, other: bytes) -> bytes:
    return _flipped(rng, good, len(good))


def extreme_number(rng: random.Random, good: bytes, other: bytes) -> bytes:
    """Lengths, rates and channels are among the numbers of the first bytes."""
    spoilt = bytearray(good)
    for _ in range(rng.randint(1, 3)):
        size = rng.choice([1, 2, 4, 8])
        value = (rng.choice(EXTREMES) % 2 ** (8 * size)).to_bytes(size, rng.choice(["little", "big"]))
        place = rng.randrange(min(HEADER, len(good)))
        spoilt[place : place + size] = value
    return bytes(spoilt)


def extreme_samples(rng: random.Random, good: bytes, other: bytes) -> bytes:
    """NaN, infinities and the largest numbers, where a file holds floats."""
    values = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, 1e-45], dtype="<f4")
    spoilt = bytearray(good)
    for _ in range(rng.randint(1, 50)):
        place = 4 * rng.randrange(HEADER // 4, len(good) // 4)
        spoilt[place : place + 4] = values[rng.randrange(len(values))].tobytes()
    return bytes(spoilt)


def spliced(rng: random.Random, good: bytes, other: bytes) -> bytes:
    return good[: rng.randrange(len(good))] + other[rng.randrange(len(other)) :]


def filled_up(rng: random.Random, good: bytes, other: bytes) -> bytes:
    place = rng.randrange(len(good))
    return good[:place] + rng.randbytes(rng.randrange(1, 5000)) + good[place:]


def noise_behind_a_header(rng: random.Random, good: bytes, other: bytes) -> bytes:
    return good[: rng.randrange(4, HEADER)] + rng.randbytes(rng.randrange(5000))


def zeros(rng: random.Random, good: bytes, other: bytes) -> bytes:
    begin = rng.randrange(len(good))
    end = rng.randrange(begin, len(good))
    return good[:begin] + bytes(end - begin) + good[end:]


def no_audio(rng: random.Random, good: bytes, other: bytes) -> bytes:
    return rng.choice([b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"%PDF-1.7", b"PK\3\4", b"#!"]) + (
        rng.randbytes(rng.randrange(600))
    )


def _flipped(rng: random.Random, good: bytes, within: int) -> bytes:
    spoilt = bytearray(good)
    for _ in range(rng.randint(1, 8)):
        spoilt[rng.randrange(within)] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


SPOILERS: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    truncated,
    flipped_in_the_header,
    extreme_number,
    flipped_anywhere,
    spliced,
    extreme_samples,
    noise_behind_a_header,
    filled_up,
    zeros,
    no_audio,
)
