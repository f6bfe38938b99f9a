"""Altered copies of the utterances that train, each drawn from what the utterance sounds like and nothing else.

A copy is the same whoever makes it, when, in which order and in how many processes; it is encoded like a recording,
once, into a folder of its own in the feature store.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whisper_ser.audio.augmentation import TRANSFORMS
from whisper_ser.audio.decoding import MIN_SECONDS, read_audio
from whisper_ser.data.audio_index import AudioRecord

VERSION = 1
"""Raised when the same draw gives another waveform than before."""


@dataclass(frozen=True)
class AugmentedView:
    """An altered copy of every utterance.

    Attributes:
        transforms: names in `TRANSFORMS`. A copy draws which of them befall it, all subsets alike but the empty one,
            and how strongly.
        number: from 1; copies of one number are drawn independently of those of another.
    """

    transforms: tuple[str, ...]
    number: int

    @property
    def name(self) -> str:
        """A name for a folder: equal for equal copies."""
        return f"copy{self.number}-{hashlib.sha256(self._description.encode()).hexdigest()[:16]}"

    @property
    def _description(self) -> str:
        return json.dumps([VERSION, [name for name in TRANSFORMS if name in self.transforms], self.number])

    def of(self, record: AudioRecord) -> AudioRecord:
        """Returns the copy of an utterance: its `sample_hash` is the copy's key, the rest is the utterance's."""
        key = hashlib.sha256(f"{record.sample_hash} {self._description}".encode()).hexdigest()
        return record._replace(sample_hash=key)

    def read(self, copied: AudioRecord, sampling_rate: int) -> np.ndarray:
        """Returns the waveform of a copy that `of` returned, float32 `(samples,)`."""
        return self.alter(read_audio(copied.path, sampling_rate), copied.sample_hash, sampling_rate)

    def alter(self, samples: np.ndarray, key: str, sampling_rate: int) -> np.ndarray:
        """Returns `samples` altered as the hexadecimal `key` draws it, at least 25 ms long."""
        generator = np.random.default_rng(int(key, 16))
        names = [name for name in TRANSFORMS if name in self.transforms]
        chosen = generator.integers(1, 2 ** len(names))
        for place, name in enumerate(names):
            if chosen >> place & 1:
                samples = TRANSFORMS[name](samples, generator, sampling_rate)
        least = round(MIN_SECONDS * sampling_rate)
        return np.pad(samples, (0, max(0, least - len(samples)))).astype(np.float32)


def augmented_views(transforms: Sequence[str] | None, count: int) -> list[AugmentedView]:
    """Returns `count` copies by these transforms; none without transforms."""
    return [AugmentedView(tuple(transforms), number) for number in range(1, count + 1)] if transforms else []
