"""Which utterances train, validate and test: no speaker is in two parts."""

import math
import random
from typing import NamedTuple

from datasets import Dataset

from whisper_ser.errors import ProtocolError


class Split(NamedTuple):
    """The three parts of a corpus. Validation may be empty."""

    train: Dataset
    validation: Dataset
    test: Dataset


def split_by_speaker(
    corpus: Dataset,
    test_speakers: list[str] | None = None,
    validation_speakers: list[str] | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> Split:
    """Returns `corpus` cut into parts by speaker.

    Args:
        corpus: with the columns `speaker` and `emotion`.
        test_speakers, validation_speakers: held out by name; left out, drawn by `seed`.
        test_fraction, validation_fraction: share of all speakers to draw, one speaker at least; 0 draws none.
        seed: of the draw.

    Raises:
        ProtocolError: an unknown speaker, one in two parts, or none left to train on. A label that no training speaker
            has is for the audit to refuse.
    """
    speakers = sorted(set(corpus["speaker"]))
    if "" in speakers:
        raise ProtocolError(
            "A split without shared speakers needs the speaker of every utterance: add a column speaker to the table, "
            "or name the column. Where speakers are unknown, the protocol stratified tests without them."
        )
    _check_names(speakers, test_speakers or [], validation_speakers or [])
    free = [s for s in speakers if s not in {*(test_speakers or []), *(validation_speakers or [])}]
    random.Random(seed).shuffle(free)
    test = test_speakers or _draw(free, test_fraction, len(speakers))
    validation = validation_speakers or _draw(free, validation_fraction, len(speakers))
    if not free:
        raise ProtocolError(
            f"No speaker is left to train on: of {len(speakers)} speakers {', '.join(test)} test and "
            f"{', '.join(validation) or 'none'} validate. A speaker-disjoint split needs at least two speakers, three "
            "with validation."
        )
    if not test:
        raise ProtocolError("No speaker is held out for the test: name test_speakers or raise test_fraction.")
    return Split(*(_of_speakers(corpus, part) for part in (free, validation, test)))


def _check_names(speakers: list[str], test: list[str], validation: list[str]) -> None:
    unknown = sorted({*test, *validation} - set(speakers))
    if unknown:
        raise ProtocolError(f"The corpus has no speaker {', '.join(unknown)}; it has {', '.join(speakers)}.")
    shared = sorted({*test} & {*validation})
    if shared:
        raise ProtocolError(f"Speaker {', '.join(shared)} cannot both test and validate.")


def _draw(free: list[str], fraction: float, speakers: int) -> list[str]:
    """Takes the share of all `speakers` out of `free`."""
    count = min(math.ceil(fraction * speakers - 1e-9), len(free))
    return [free.pop() for _ in range(count)]


def _of_speakers(corpus: Dataset, speakers: list[str]) -> Dataset:
    wanted = set(speakers)
    return corpus.select([index for index, speaker in enumerate(corpus["speaker"]) if speaker in wanted])
