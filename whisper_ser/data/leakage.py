"""What the parts of a fold share that they must not: speakers, and the same audio under whatever name or codec.

Copies are found in two steps. Fingerprints, which one matrix product compares for all pairs, pick candidates; the
waveforms of the candidates are then correlated at the best lag.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.audio_index import HIGHEST, LOWEST, SAMPLING_RATE, Sound, listen
from whisper_ser.data.splits import Fold
from whisper_ser.errors import ProtocolError, listed

KINDS = ("speakers", "audio", "labels")
"""Of leaks, as `check` allows them by name."""

CANDIDATE = 0.25
"""Similarity of fingerprints from which waveforms are compared. Of all pairs of RAVDESS and of four emotions of EmoDB,
different recordings reach 0.21; copies keep 0.5 through MP3 or GSM at 8 kHz and 8 to 13 kbit/s, or Opus at 16."""
SAME_RECORDING = 0.65
"""Correlation of waveforms from which two files are one recording: different takes there reach 0.54, copies as above
keep 0.9, and through Opus at its lowest bitrate 0.69."""
LIKE_DURATION = 0.5
"""Seconds by which copies may differ: MP3 at 8 kHz adds up to 0.22."""
ROWS_AT_ONCE = 512


class LeakError(ProtocolError):
    """Parts of a fold that share what they must not."""


@dataclass(frozen=True)
class Leak:
    """What two parts of a fold share, or the training part lacks.

    Attributes:
        kind: one of `KINDS`.
        fold: its name.
        parts: such as `train/test`.
        found: the speakers, pairs of files, or labels.
    """

    kind: str
    fold: str
    parts: str
    found: list[str]


@dataclass(frozen=True)
class AuditResult:
    """What an audit saw. `dataclasses.asdict` of it is JSON.

    Attributes:
        folds: their names.
        utterances: audio files compared.
        leaks: empty where all is well.
        notes: for people: what is no leak but worth knowing.
        without_speaker: utterances whose speaker is not known, so that parts may share speakers unseen.
    """

    folds: list[str]
    utterances: int
    leaks: list[Leak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without_speaker: int = 0


class _Copy(NamedTuple):
    one: str
    other: str
    likeness: str


def audit(folds: Sequence[Fold], sounds: Mapping[str, Sound] | None = None, *, progress: bool = True) -> AuditResult:
    """Returns what the parts of each fold share, whether of one corpus or of several.

    Speakers are told apart by their name and their corpus' name (`info.dataset_name`). Every file is decoded once and
    compared once, however many folds there are: time grows with the audio and, far more slowly, with the number
    of pairs of like duration; RAVDESS' 1,440 utterances take about 6 s of one core, a tenth of it for the pairs.

    Args:
        folds: with the columns `path`, `speaker` and `emotion` in every part.
        sounds: what `listen` returned for all files; left out, they are listened to.
        progress: shows a bar.

    Raises:
        CorpusError: audio that cannot be used, all of it listed.
    """
    paths = sorted({path for fold in folds for part in fold.split for path in part["path"][:]})
    heard = listen(paths, progress) if sounds is None else sounds
    copies = _copies([heard[path] for path in paths])
    unknown = {path for fold in folds for part in fold.split for path in _without_speaker(part)}
    result = AuditResult([fold.name for fold in folds], len(paths), without_speaker=len(unknown))
    for fold in folds:
        result.leaks.extend(_shared_speakers(fold))
        result.leaks.extend(_shared_audio(fold, copies))
        result.leaks.extend(_missing_labels(fold, result.notes))
    if unknown:
        result.notes.append(
            f"{len(unknown)} of {len(paths)} utterances have no speaker: parts may share speakers unseen."
        )
    return result


def check(result: AuditResult, allow: set[str]) -> list[str]:
    """Returns a line for each kind of leak that was found and is allowed, to be printed with every result.

    Args:
        result: of `audit`.
        allow: kinds of leaks that are accepted, of `KINDS`.

    Raises:
        LeakError: a leak that is not allowed; lists all of them.
        ProtocolError: an unknown kind.
    """
    unknown = sorted(allow - {*KINDS})
    if unknown:
        raise ProtocolError(f"There is no kind of leak {', '.join(unknown)}; expected {', '.join(KINDS)}.")
    refused = [leak for leak in result.leaks if leak.kind not in allow]
    if refused:
        kinds = sorted({leak.kind for leak in refused})
        raise LeakError(
            f"The parts of the folds are not what a fair test needs ({', '.join(kinds)}):\n"
            f"{listed([_described(leak) for leak in refused])}\n"
            "Use another protocol, hold out other speakers, or take the utterances or labels out. Where a published "
            "protocol wants it so, allow it by "
            f"name ({', '.join(kinds)}): every table will say so."
        )
    return [f"Leak allowed: {finding}" for finding in findings(result)]


def findings(result: AuditResult) -> list[str]:
    """Returns a line for each kind of leak between two parts: in how many folds, and the first of them."""
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


def _shared_audio(fold: Fold, copies: list[_Copy]) -> Iterator[Leak]:
    parts = {name: set(part["path"][:]) for name, part in fold.split._asdict().items()}
    for one, other in combinations(parts, 2):
        found = [f"{path} itself" for path in sorted(parts[one] & parts[other])]
        for a, b, likeness in copies:
            if (a in parts[one] and b in parts[other]) or (b in parts[one] and a in parts[other]):
                found.append(f"{a} as {b} ({likeness})")
        if found:
            yield Leak("audio", fold.name, f"{one}/{other}", found)


def _missing_labels(fold: Fold, notes: list[str]) -> Iterator[Leak]:
    """Yields what cannot be learnt; what is only not tested or validated is added to `notes`."""
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


def _copies(sounds: list[Sound]) -> list[_Copy]:
    """Returns the pairs that are one recording, and how alike they are."""
    copies = []
    for i, j in sorted({*_equal(sounds), *_candidates(sounds)}):
        one, other = sounds[i], sounds[j]
        if one.file_hash == other.file_hash:
            copies.append(_Copy(one.path, other.path, "identical bytes"))
        elif one.sample_hash == other.sample_hash:
            copies.append(_Copy(one.path, other.path, "identical samples"))
        elif (correlation := _correlation(one.path, other.path)) >= SAME_RECORDING:
            copies.append(_Copy(one.path, other.path, f"the same recording, correlation {correlation:.2f}"))
    return copies


def _equal(sounds: list[Sound]) -> Iterator[tuple[int, int]]:
    """Yields pairs of indices of equal samples, whatever the container."""
    same: dict[str, list[int]] = defaultdict(list)
    for index, sound in enumerate(sounds):
        same[sound.sample_hash].append(index)
    for indices in same.values():
        yield from combinations(indices, 2)


def _candidates(sounds: list[Sound]) -> Iterator[tuple[int, int]]:
    """Yields pairs of indices of like duration whose fingerprints are similar."""
    order = sorted(range(len(sounds)), key=lambda index: sounds[index].seconds)
    seconds = np.array([sounds[index].seconds for index in order])
    fingerprints = np.stack([sounds[index].fingerprint for index in order])
    for start in range(0, len(order), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        # Sorted by duration, the partners of a block are the block itself and a stretch behind it.
        end = np.searchsorted(seconds, seconds[block][-1] + LIKE_DURATION, side="right")
        similarity = fingerprints[block] @ fingerprints[start:end].T
        for row, column in zip(*np.nonzero(similarity >= CANDIDATE), strict=True):
            if row < column and seconds[start + column] - seconds[start + row] <= LIKE_DURATION:
                one, other = sorted((order[start + row], order[start + column]))
                yield one, other


def _correlation(one: str, other: str) -> float:
    """Returns the normalised cross-correlation of two files in the band of the fingerprint at the best lag, 0 to 1."""
    waveforms = [read_audio(path, SAMPLING_RATE) for path in (one, other)]
    size = 1 << sum(map(len, waveforms)).bit_length()
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLING_RATE)
    band = (frequencies >= LOWEST) & (frequencies <= HIGHEST)
    spectra = [np.fft.rfft(waveform, size) * band for waveform in waveforms]
    by_lag = np.fft.irfft(spectra[0] * spectra[1].conj(), size)
    energies = [np.square(np.fft.irfft(spectrum, size)).sum() for spectrum in spectra]
    return float(np.abs(by_lag).max() / max(np.sqrt(energies[0] * energies[1]), 1e-12))
