"""Splits by speaker and the folds of all cross-validation protocols."""

import logging
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from datasets import Dataset

from whisper_ser.errors import ProtocolError

logger = logging.getLogger(__name__)

PROTOCOLS = ("auto", "loso", "group", "speaker_groups", "fold", "fixed", "stratified")
GROUP_PROTOCOLS = ("speaker_groups", "stratified")
PARTS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Values of a split column, and the part that each stands for."""
FIXED_COLUMNS = ("group", "fold")
"""Columns that may hold the fixed parts of a corpus."""
COLUMN_OF_PROTOCOL = {
    "group": ("group", "name the column, or leave speakers out with loso"),
    "fold": ("fold", "name the fold column, or use another protocol"),
    "loso": ("speaker", "name the speaker column, or use stratified"),
    "speaker_groups": ("speaker", "name the speaker column, or use stratified"),
}
"""The column whose values are held out, and what to do where it is empty."""
MAX_LOSO_SPEAKERS = 12
NUM_GROUPS = 5


class Split(NamedTuple):
    """The three parts of a corpus. Validation may be empty."""

    train: Dataset
    validation: Dataset
    test: Dataset


class Fold(NamedTuple):
    """A split with the name of what it holds out."""

    name: str
    split: Split


def training_paths(folds: Sequence[Fold], refit: bool = False) -> set[str]:
    """Returns the paths of all utterances that train in any fold; with `refit`, validation utterances train too."""
    parts = [fold.split.train for fold in folds]
    if refit:
        parts += [fold.split.validation for fold in folds]
    return {path for part in parts for path in part["path"]}


def folds(
    corpus: Dataset,
    protocol: str = "auto",
    *,
    num_groups: int | None = None,
    seed: int = 0,
    validation_fraction: float = 0.0,
) -> list[Fold]:
    """Returns the folds of `corpus` by a protocol. Except with `fixed`, every utterance is tested exactly once.

    - `loso`: leave one speaker out.
    - `group`: leave one value of the column `group` out, such as a session.
    - `speaker_groups`: leave one of `num_groups` groups of speakers out. They have about equally many utterances and
      are drawn by `seed`.
    - `fold`: leave one value of the column `fold` out, the published folds.
    - `fixed`: one fold; the column `group` or `fold` holds train, validation (or valid, val, dev) and test.
    - `stratified`: leave one of `num_groups` parts out, which have about equally many utterances of each label; for
      unknown speakers.
    - `auto`: `fixed` or `fold` where the corpus publishes them, else `loso` up to 12 speakers and 5 `speaker_groups`
      above; `stratified` where an utterance has no speaker.

    Validation speakers are drawn from the training part. Speakers who do not also test are preferred, and no speaker
    is drawn who alone has a label. Where speakers are unknown, validation utterances are stratified by label. A
    validation part that the corpus publishes is kept.

    Args:
        corpus: with the columns of `build_dataset`.
        protocol: one of `PROTOCOLS`.
        num_groups: for `speaker_groups` and `stratified`; 5 by default.
        seed: of all draws.
        validation_fraction: share of the training speakers (of the training utterances, where speakers are unknown)
            drawn for validation, at least one; 0 for none.

    Raises:
        ProtocolError: an unknown protocol, a column without values, too few speakers or groups. Labels that a training
            part lacks are left to the audit.
    """
    if protocol not in PROTOCOLS:
        raise ProtocolError(f"There is no protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}.")
    if not len(corpus):
        raise ProtocolError("The corpus has no utterances.")
    if protocol == "auto":
        protocol = usual_protocol(corpus)
    _check_groups(protocol, num_groups)
    if protocol == "fixed":
        cuts = [_fixed(corpus)]
    else:
        held_out = _held_out(corpus, protocol, num_groups or NUM_GROUPS, seed)
        cuts = [_leave_out(held_out, name) for name in sorted(set(held_out), key=_natural)]
    return [_fold(corpus, cut, validation_fraction, seed) for cut in cuts]


class _Cut(NamedTuple):
    """A fold as indices into the corpus."""

    name: str
    train: list[int]
    validation: list[int]
    test: list[int]


def _check_groups(protocol: str, num_groups: int | None) -> None:
    if num_groups is not None and protocol not in GROUP_PROTOCOLS:
        raise ProtocolError(f"num_groups has no meaning for {protocol}, only for {' and '.join(GROUP_PROTOCOLS)}.")
    if num_groups is not None and num_groups < 2:
        raise ProtocolError(f"num_groups is {num_groups}: at least 2 are needed, one to train and one to test.")


def usual_protocol(corpus: Dataset) -> str:
    """Returns the protocol that `auto` chooses for this corpus."""
    if _fixed_column(corpus):
        return "fixed"
    if all(corpus["fold"][:]):
        return "fold"
    speakers = corpus["speaker"][:]
    if not all(speakers):
        return "stratified"
    return "loso" if len(set(speakers)) <= MAX_LOSO_SPEAKERS else "speaker_groups"


def _held_out(corpus: Dataset, protocol: str, num_groups: int, seed: int) -> list[str]:
    """Returns the name of the fold that tests each utterance."""
    if protocol == "stratified":
        logger.warning(
            "Folds are stratified by label, not by speaker: a speaker may be in several parts, and the results do not "
            "show how well unknown speakers are recognised."
        )
        return _stratified(corpus["emotion"][:], num_groups, seed)
    name, instead = COLUMN_OF_PROTOCOL[protocol]
    values = corpus[name][:]
    if empty := values.count(""):
        raise ProtocolError(
            f"{protocol} needs the {name} of every utterance, and {empty} of {len(values)} have none: {instead}."
        )
    if len(set(values)) < 2:
        raise ProtocolError(f"{protocol} needs at least two {name}s, and the corpus has only {values[0]}: {instead}.")
    if protocol != "speaker_groups":
        return values
    group = _speaker_groups(Counter(values), num_groups, seed)
    return [group[speaker] for speaker in values]


def _speaker_groups(utterances: Counter[str], num_groups: int, seed: int) -> dict[str, str]:
    """Returns the group of each speaker: in order of falling utterances, each speaker joins the smallest group.

    The seed decides the order of speakers with equally many utterances.
    """
    if len(utterances) < num_groups:
        raise ProtocolError(
            f"{num_groups} groups need as many speakers, and the corpus has {len(utterances)}: lower num_groups, or "
            "use loso."
        )
    speakers = sorted(utterances)
    random.Random(seed).shuffle(speakers)
    sizes = [0] * num_groups
    group = {}
    for speaker in sorted(speakers, key=lambda speaker: -utterances[speaker]):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += utterances[speaker]
        group[speaker] = str(smallest + 1)
    return group


def _stratified(labels: list[int], num_groups: int, seed: int) -> list[str]:
    """Returns the group of each utterance: the shuffled utterances of each label are assigned in turn."""
    if len(labels) < num_groups:
        raise ProtocolError(f"{num_groups} groups need as many utterances, and the corpus has {len(labels)}.")
    group = [""] * len(labels)
    for turn, index in enumerate(_by_label(labels, range(len(labels)), seed)):
        group[index] = str(turn % num_groups + 1)
    return group


def _by_label(labels: list[int], indices: Iterable[int], seed: int) -> list[int]:
    """Returns the indices label by label, shuffled within each."""
    rng = random.Random(seed)
    return sorted(indices, key=lambda index: (labels[index], rng.random()))


def _leave_out(held_out: list[str], name: str) -> _Cut:
    train = [index for index, other in enumerate(held_out) if other != name]
    test = [index for index, other in enumerate(held_out) if other == name]
    return _Cut(name, train, [], test)


def _fixed_column(corpus: Dataset) -> str | None:
    """Returns the column whose values are all names of parts, including train and test."""
    for name in FIXED_COLUMNS:
        values = {value.lower() for value in corpus[name][:]}
        if values <= PARTS.keys() and {"train", "test"} <= {PARTS[value] for value in values}:
            return name
    return None


def _fixed(corpus: Dataset) -> _Cut:
    column = _fixed_column(corpus)
    if column is None:
        found = {name: sorted(set(corpus[name][:]) - {""}) for name in FIXED_COLUMNS}
        raise ProtocolError(
            f"fixed needs a column with one of {', '.join(PARTS)} for every utterance, including train and test: "
            + "; ".join(f"{name} has {', '.join(values[:10]) or 'nothing'}" for name, values in found.items())
            + ". Name the split column, or use another protocol."
        )
    parts: dict[str, list[int]] = defaultdict(list)
    for index, value in enumerate(corpus[column][:]):
        parts[PARTS[value.lower()]].append(index)
    return _Cut("test", parts["train"], parts["validation"], parts["test"])


def _natural(name: str) -> tuple[bool, int, str]:
    """Returns a sort key: numbers by value, before names."""
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)


def _fold(corpus: Dataset, cut: _Cut, validation_fraction: float, seed: int) -> Fold:
    if not 0 <= validation_fraction < 1:
        raise ProtocolError(f"validation_fraction is {validation_fraction}; expected a share from 0 to below 1.")
    train, validation = cut.train, cut.validation
    if validation_fraction and not validation:
        validation = sorted(_drawn_for_validation(corpus, cut, validation_fraction, seed))
        train = sorted({*train} - {*validation})
    return Fold(cut.name, Split(*(corpus.select(part) for part in (train, validation, cut.test))))


def _drawn_for_validation(corpus: Dataset, cut: _Cut, fraction: float, seed: int) -> list[int]:
    speakers = corpus["speaker"][:]
    if all(speakers[index] for index in cut.train):
        return _speakers_for_validation(corpus, cut, fraction, seed)
    by_label = _by_label(corpus["emotion"][:], cut.train, seed)
    total, count = len(by_label), max(1, round(fraction * len(by_label)))
    # `count` utterances, evenly spaced over the labels: stratified.
    return [index for turn, index in enumerate(by_label) if (turn + 1) * count // total > turn * count // total]


def _speakers_for_validation(corpus: Dataset, cut: _Cut, fraction: float, seed: int) -> list[int]:
    """Returns the utterances of speakers drawn from the training part."""
    # As slices: reading a column of a `Dataset` item by item is slow.
    speakers, labels = corpus["speaker"][:], corpus["emotion"][:]
    testing = {speakers[index] for index in cut.test}
    candidates = sorted({speakers[index] for index in cut.train})
    count = max(1, round(fraction * len(candidates)))
    random.Random(seed).shuffle(candidates)
    candidates.sort(key=lambda speaker: speaker in testing)
    left = Counter(labels[index] for index in cut.train)
    drawn: set[str] = set()
    for speaker in candidates:
        own = Counter(labels[index] for index in cut.train if speakers[index] == speaker)
        if len(drawn) < count and all(left[label] > own[label] for label in own):
            left -= own
            drawn.add(speaker)
    if len(drawn) < count:
        raise ProtocolError(
            f"Fold {cut.name} cannot hold {count} of {len(candidates)} training speakers out for validation: without "
            "them a label would not be trained. Lower validation_fraction."
        )
    return [index for index in cut.train if speakers[index] in drawn]


def split_by_speaker(
    corpus: Dataset,
    test_speakers: list[str] | None = None,
    validation_speakers: list[str] | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> Split:
    """Returns `corpus` cut into parts by speaker.

    Validation speakers are drawn as in `folds`.

    Args:
        corpus: with the columns `speaker` and `emotion`.
        test_speakers, validation_speakers: names of the speakers to hold out; drawn by `seed` if left out.
        test_fraction: share of all speakers drawn for the test, rounded up.
        validation_fraction: share of the training speakers, those who do not test, drawn for validation, at least one;
            0 for none.
        seed: of the draws.

    Raises:
        ProtocolError: an unknown speaker, one in two parts, or none left to train on. The audit refuses a label that
            no training speaker has.
    """
    names = corpus["speaker"][:]
    speakers = sorted(set(names))
    if "" in speakers:
        raise ProtocolError(
            "A split by speaker needs the speaker of every utterance: add a column speaker to the table, or name the "
            "column. If speakers are unknown, use the protocol stratified."
        )
    _check_names(speakers, test_speakers or [], validation_speakers or [])
    free = [s for s in speakers if s not in {*(test_speakers or []), *(validation_speakers or [])}]
    random.Random(seed).shuffle(free)
    count = min(math.ceil(test_fraction * len(speakers) - 1e-9), len(free))
    test = test_speakers or [free.pop() for _ in range(count)]
    if not free:
        raise ProtocolError(
            f"No speaker is left to train on: of {len(speakers)} speakers {', '.join(test)} test and "
            f"{', '.join(validation_speakers or []) or 'none'} validate. A speaker-disjoint split needs at least two "
            "speakers, three with validation."
        )
    if not test:
        raise ProtocolError("No speaker is held out for the test: name test_speakers or raise test_fraction.")
    part_of = dict.fromkeys(free, "train") | dict.fromkeys(validation_speakers or [], "validation")
    part_of |= dict.fromkeys(test, "test")
    parts = {part: [index for index, name in enumerate(names) if part_of[name] == part] for part in Split._fields}
    return _fold(corpus, _Cut("test", **parts), validation_fraction, seed).split


def _check_names(speakers: list[str], test: list[str], validation: list[str]) -> None:
    unknown = sorted({*test, *validation} - set(speakers))
    if unknown:
        raise ProtocolError(f"The corpus has no speaker {', '.join(unknown)}; it has {', '.join(speakers)}.")
    shared = sorted({*test} & {*validation})
    if shared:
        raise ProtocolError(f"Speaker {', '.join(shared)} cannot both test and validate.")
