"""Augmented views of the training utterances, each drawn from the samples of the utterance and nothing else.

A view does not depend on the order or the number of processes in which views are made; it is encoded like a
recording, once, into a folder of its own in the feature store.
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
    """An augmented view of every utterance.

    Attributes:
        transforms: names in `TRANSFORMS`. Each utterance draws which of them apply, all non-empty ones alike, and how
            strongly.
        number: from 1; views of one number are drawn independently of those of another.
    """

    transforms: tuple[str, ...]
    number: int

    @property
    def name(self) -> str:
        """The name of its folder; equal views have equal names."""
        return f"copy{self.number}-{hashlib.sha256(self._description.encode()).hexdigest()[:16]}"

    @property
    def _description(self) -> str:
        return json.dumps([VERSION, [name for name in TRANSFORMS if name in self.transforms], self.number])

    def of(self, record: AudioRecord) -> AudioRecord:
        """Returns the record of the view of an utterance: the key of the view is its `sample_hash`."""
        key = hashlib.sha256(f"{record.sample_hash} {self._description}".encode()).hexdigest()
        return record._replace(sample_hash=key)

    def read(self, record: AudioRecord, sampling_rate: int) -> np.ndarray:
        """Returns the waveform of a record that `of` returned, float32 `(samples,)`."""
        return self.alter(read_audio(record.path, sampling_rate), record.sample_hash, sampling_rate)

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
    """Returns `count` views by these transforms; none without transforms."""
    return [AugmentedView(tuple(transforms), number) for number in range(1, count + 1)] if transforms else []
