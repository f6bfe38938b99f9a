"""The audit of folds: speakers and recordings that the parts of a fold share, and labels that cannot be learnt."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from datasets import Dataset

from whisper_ser.data.audio_index import AudioRecord, index_audio
from whisper_ser.data.duplicates import Duplicate, find_duplicates
from whisper_ser.data.splits import Fold
from whisper_ser.errors import ProtocolError, format_problems

KINDS = ("speakers", "audio", "labels")


class LeakError(ProtocolError):
    """The parts of a fold share speakers or recordings, or a label cannot be learnt."""


@dataclass(frozen=True)
class Leak:
    """What two parts of a fold share, or what the training part lacks.

    Attributes:
        kind: one of `KINDS`.
        fold: name of the fold.
        parts: such as `train/test`.
        found: the speakers, pairs of files, or labels.
    """

    kind: str
    fold: str
    parts: str
    found: list[str]


@dataclass(frozen=True)
class AuditResult:
    """The result of an audit. `dataclasses.asdict` of it is JSON.

    Attributes:
        folds: names of the folds.
        utterances: number of audio files compared.
        leaks: all leaks found.
        notes: facts that are not leaks but that a reader should know.
        without_speaker: number of utterances whose speaker is unknown, so that parts may share speakers.
    """

    folds: list[str]
    utterances: int
    leaks: list[Leak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without_speaker: int = 0


def audit(
    folds: Sequence[Fold], records: Mapping[str, AudioRecord] | None = None, *, progress: bool = True
) -> AuditResult:
    """Returns what the parts of each fold share, within one corpus or across several.

    Speakers are identified by their name and the name of their corpus (`info.dataset_name`). Every file is compared
    once, however many folds there are. The time is dominated by decoding: the 1,440 utterances of RAVDESS take about
    6 s on one core, a tenth of it for comparing pairs.

    Args:
        folds: with the columns `path`, `speaker` and `emotion` in every part.
        records: what `index_audio` returned for all files; computed here if left out.
        progress: shows a progress bar.

    Raises:
        CorpusError: lists all audio files that cannot be used.
    """
    paths = sorted({path for fold in folds for part in fold.split for path in part["path"][:]})
    records = index_audio(paths, progress) if records is None else records
    duplicates = find_duplicates([records[path] for path in paths])
    unknown = {path for fold in folds for part in fold.split for path in _without_speaker(part)}
    result = AuditResult([fold.name for fold in folds], len(paths), without_speaker=len(unknown))
    for fold in folds:
        result.leaks.extend(_shared_speakers(fold))
        result.leaks.extend(_shared_audio(fold, duplicates))
        result.leaks.extend(_missing_labels(fold, result.notes))
    if unknown:
        result.notes.append(
            f"{len(unknown)} of {len(paths)} utterances have no speaker: parts may share speakers unseen."
        )
    return result


def check(result: AuditResult, allow: set[str]) -> list[str]:
    """Returns a line for each kind of leak that was found and is allowed, to be printed with every result.

    Args:
        result: what `audit` returned.
        allow: the `KINDS` of leaks that are accepted.

    Raises:
        LeakError: lists all leaks that are not allowed.
        ProtocolError: an unknown kind.
    """
    unknown = sorted(allow - {*KINDS})
    if unknown:
        raise ProtocolError(f"There is no kind of leak {', '.join(unknown)}; expected {', '.join(KINDS)}.")
    refused = [leak for leak in result.leaks if leak.kind not in allow]
    if refused:
        kinds = sorted({leak.kind for leak in refused})
        raise LeakError(
            f"The parts of the folds are not independent, or a label cannot be learnt ({', '.join(kinds)}):\n"
            f"{format_problems([_described(leak) for leak in refused])}\n"
            "Use another protocol, hold out other speakers, or remove the utterances or labels. If a published "
            f"protocol requires it, allow it by name ({', '.join(kinds)}); every table will state it."
        )
    return [f"Leak allowed: {finding}" for finding in findings(result)]


def findings(result: AuditResult) -> list[str]:
    """Returns a line for each kind of leak between two parts: the number of folds, and the leak of the first one."""
    leaky: dict[tuple[str, str], list[Leak]] = defaultdict(list)
    for leak in result.leaks:
        leaky[leak.kind, leak.parts].append(leak)
    return [
        f"{kind} ({parts}) in {len(leaks)} of {len(result.folds)} folds, {_described(leaks[0])}"
        for (kind, parts), leaks in leaky.items()
    ]


def _described(leak: Leak) -> str:
    shown = ", ".join(leak.found[:3]) + (f" and {len(leak.found) - 3} more" if len(leak.found) > 3 else "")
    what = "lacks the label" if leak.kind == "labels" else f"share {leak.kind}"
    return f"fold {leak.fold}: {leak.parts.replace('/', ' and ')} {what} {shown}"


def _shared_speakers(fold: Fold) -> Iterator[Leak]:
    speakers = {
        name: {(part.info.dataset_name, speaker) for speaker in part["speaker"][:] if speaker}
        for name, part in fold.split._asdict().items()
    }
    for one, other in combinations(speakers, 2):
        shared = sorted(speaker for _, speaker in speakers[one] & speakers[other])
        if shared:
            yield Leak("speakers", fold.name, f"{one}/{other}", shared)


def _without_speaker(part: Dataset) -> list[str]:
    return [path for path, speaker in zip(part["path"][:], part["speaker"][:], strict=True) if not speaker]


def _shared_audio(fold: Fold, duplicates: list[Duplicate]) -> Iterator[Leak]:
    parts = {name: set(part["path"][:]) for name, part in fold.split._asdict().items()}
    for one, other in combinations(parts, 2):
        found = [f"{path} itself" for path in sorted(parts[one] & parts[other])]
        for a, b, evidence in duplicates:
            if (a in parts[one] and b in parts[other]) or (b in parts[one] and a in parts[other]):
                found.append(f"{a} as {b} ({evidence})")
        if found:
            yield Leak("audio", fold.name, f"{one}/{other}", found)


def _missing_labels(fold: Fold, notes: list[str]) -> Iterator[Leak]:
    """Yields labels missing from the training part; labels missing from other parts are added to `notes`."""
    present = {
        name: {part.features["emotion"].names[label] for label in set(part["emotion"][:])}
        for name, part in fold.split._asdict().items()
    }
    expected = set(fold.split.train.features["emotion"].names).union(*present.values())
    for name, labels in present.items():
        missing = sorted(expected - labels)
        if missing and name == "train":
            yield Leak("labels", fold.name, name, missing)
        elif missing and labels:
            notes.append(f"Fold {fold.name} has no {', '.join(missing)} in its {name} part.")
