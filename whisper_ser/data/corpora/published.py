"""The common part of published corpora: their specification, the search of folders, and checks of completeness."""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from whisper_ser.data.corpora.dataset import Utterance, build_dataset
from whisper_ser.errors import CorpusError, format_problems

logger = logging.getLogger(__name__)

GENDERS = {"F": "female", "M": "male"}
READABLE = (".wav", ".flac")
OTHER_AUDIO = (".aif", ".aiff", ".m4a", ".mp3", ".ogg", ".opus", ".sph", ".wma")
MAX_DEPTH = 4
"""Levels of folders that are searched: three of the deepest published layout, and one of a parent folder."""


def _everything(utterance: Utterance, subset: str) -> bool:
    return True


@dataclass(frozen=True)
class CorpusSpec:
    """One published corpus.

    Attributes:
        name: the name in this package.
        title: the name in publications.
        language: ISO 639-1 code.
        license: in short, as the publisher words it.
        license_id: identifier of the licence on the Hub; `None` where the publisher states none, or has an agreement
            or restriction of its own (see `whisper_ser.data.licenses`).
        citation: BibTeX.
        homepage: where to obtain it.
        layout: of the folder as distributed, for error messages.
        label_sets: the class sets of published work, the default first; each in the order of the logits.
        counts: published number of utterances of each emotion in each subset, the default subset first.
        read: returns the utterances of a folder, each with an emotion of the corpus.
        merged: emotions that count as another one unless they are requested.
        in_subset: returns whether an utterance belongs to a subset.
        folds: description of the published folds, or empty.
    """

    name: str
    title: str
    language: str
    license: str
    license_id: str | None
    citation: str
    homepage: str
    layout: str
    label_sets: tuple[tuple[str, ...], ...]
    counts: Mapping[str, Mapping[str, int]]
    read: Callable[[Path], list[Utterance]]
    merged: Mapping[str, str] = field(default_factory=dict)
    in_subset: Callable[[Utterance, str], bool] = _everything
    folds: str = ""


def load_published(
    spec: CorpusSpec,
    folder: str | Path,
    labels: Sequence[str] | None = None,
    subset: str | None = None,
    allow_incomplete: bool = False,
) -> Dataset:
    """Returns the corpus that lies in `folder`, sorted by path.

    Args:
        spec: of the corpus.
        folder: as distributed, or its parent.
        labels: emotions to keep, in the order of the logits; left out, the first of `spec.label_sets`.
        subset: one of `spec.counts`; left out, the first.
        allow_incomplete: log what is missing instead of raising.

    Raises:
        CorpusError: an unknown label or subset, a folder that is missing or short of utterances, audio whose name does
            not follow the corpus' rule, or a recording that is there twice.
    """
    folder = Path(folder)
    labels = list(labels or spec.label_sets[0])
    subset = subset or next(iter(spec.counts))
    _check_options(spec, labels, subset)
    found = spec.read(folder) if folder.is_dir() else []
    in_subset = [utterance for utterance in found if spec.in_subset(utterance, subset)]
    _check_counts(
        spec, folder, labels, subset, Counter(utterance.emotion for utterance in in_subset), allow_incomplete
    )
    utterances = [
        utterance._replace(emotion=label, language=spec.language)
        for utterance in in_subset
        if (label := _label_of(utterance.emotion, spec, labels))
    ]
    return build_dataset(
        sorted(utterances),
        labels,
        spec.name,
        description=f"{spec.title}, {subset} utterances" if len(spec.counts) > 1 else spec.title,
        license=spec.license,
        citation=spec.citation,
        homepage=spec.homepage,
    )


def _label_of(emotion: str, spec: CorpusSpec, labels: Sequence[str]) -> str | None:
    """Returns the label under which an emotion is kept, or `None`."""
    label = emotion if emotion in labels else spec.merged.get(emotion)
    return label if label in labels else None


def _check_options(spec: CorpusSpec, labels: Sequence[str], subset: str) -> None:
    if subset not in spec.counts:
        raise CorpusError(f"{spec.title} has no subset {subset!r}; expected {' or '.join(spec.counts)}.")
    emotions = sorted({emotion for counts in spec.counts.values() for emotion in counts})
    unknown = [label for label in labels if label not in emotions]
    if unknown:
        raise CorpusError(f"{spec.title} has no emotion {', '.join(unknown)}; it has {', '.join(emotions)}.")
    if len(set(labels)) < max(2, len(labels)):
        raise CorpusError(f"At least two different labels are needed, each once; given: {', '.join(labels)}.")


def _check_counts(
    spec: CorpusSpec,
    folder: Path,
    labels: Sequence[str],
    subset: str,
    found: Mapping[str, int],
    allow_incomplete: bool,
) -> None:
    """Raises `CorpusError` if a kept emotion has fewer utterances than published; logs other differences."""
    published = {e: n for e, n in spec.counts[subset].items() if _label_of(e, spec, labels)}
    short = [emotion for emotion, count in published.items() if found[emotion] < count]
    if not short and all(found[emotion] == count for emotion, count in published.items()):
        return
    table = "\n".join(f"  {emotion:<12}{found[emotion]:>6} of {n}" for emotion, n in published.items())
    report = f"{folder} holds {spec.title} ({subset} utterances) with these counts, found of published:\n{table}"
    if not folder.is_dir():
        report = f"There is no folder {folder} with {spec.title}."
    if short and (not allow_incomplete or not any(found[emotion] for emotion in published)):
        raise CorpusError(
            f"{report}\nExpected this layout (or its parent folder):\n{spec.layout}\n"
            f"Obtain the corpus from {spec.homepage} (licence: {spec.license}). To use what is there, allow an "
            "incomplete corpus (allow_incomplete=True)."
        )
    logger.warning("%s", report)


def files_below(folder: Path) -> Iterator[Path]:
    """Yields the files up to `MAX_DEPTH` folders deep, sorted, without hidden files and those of macOS archives."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        depth = len(Path(parent).relative_to(folder).parts)
        visible = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        folders[:] = visible if depth < MAX_DEPTH else []
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))


def audio_below(folder: Path) -> list[Path]:
    """Returns the audio files of `files_below`, including formats in which none of the corpora is distributed."""
    return [path for path in files_below(folder) if path.suffix.lower() in READABLE + OTHER_AUDIO]


def utterances_by_name(
    files: Iterable[Path], utterance_of: Callable[[Path], Utterance | None], rule: str
) -> list[Utterance]:
    """Returns an utterance for each file.

    Args:
        files: the audio files of the corpus.
        utterance_of: returns the utterance of a file by its name, or `None` if the name does not follow the rule.
        rule: description of the rule, for error messages.

    Raises:
        CorpusError: lists files that do not follow the rule, or recordings that occur twice.
    """
    utterances, strangers = [], []
    copies = defaultdict(list)
    for path in files:
        utterance = utterance_of(path) if path.suffix.lower() in READABLE else None
        if utterance is None:
            strangers.append(str(path))
        else:
            utterances.append(utterance)
            copies[utterance.speaker, path.stem].append(str(path))
    if strangers:
        raise CorpusError(
            f"{len(strangers)} audio files are not named like those of the corpus ({rule}, as .wav or .flac). Move "
            f"them elsewhere or name a folder without them:\n{format_problems(strangers)}"
        )
    twice = [" and ".join(paths) for paths in copies.values() if len(paths) > 1]
    if twice:
        raise CorpusError(
            f"{len(twice)} recordings occur more than once. Name the folder of one copy:\n{format_problems(twice)}"
        )
    return utterances


def matched(pattern: str, path: Path) -> re.Match[str] | None:
    """Returns the match of the file name without its suffix, or `None`."""
    return re.fullmatch(pattern, path.stem)


def root_with(folder: Path, pattern: str) -> Path | None:
    """Returns `folder`, or the one folder in it, that has a match of the glob `pattern`; else `None`.

    Raises:
        CorpusError: several folders in it have a match.
    """
    if any(folder.glob(pattern)):
        return folder
    roots = [path for path in sorted(folder.iterdir()) if path.is_dir() and any(path.glob(pattern))]
    if len(roots) > 1:
        raise CorpusError(
            f"{folder} holds several copies of the corpus; name one:\n{format_problems([str(r) for r in roots])}"
        )
    return roots[0] if roots else None
