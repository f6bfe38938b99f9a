"""Reading corpora as their publishers distribute them: the description of one, the search of folders, file names."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.errors import CorpusError, format_problems

GENDERS = {"F": "female", "M": "male"}
READABLE = (".wav", ".flac")
OTHER_AUDIO = (".aif", ".aiff", ".m4a", ".mp3", ".ogg", ".opus", ".sph", ".wma")
MAX_DEPTH = 4
"""Levels of folders that are searched: three of the deepest published layout, and one of a parent folder."""


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
        citation_key: of its entry in `citations.bib`.
        homepage: where to obtain it.
        layout: of the folder as distributed, for error messages.
        label_sets: the class sets of published work, the default first; each in the order of the logits.
        counts: published number of utterances of each emotion in each subset, the default subset first.
        read: returns the utterances of a folder, each with an emotion of the corpus.
        merged: emotions that count as another one unless they are requested.
        in_subset: returns whether an utterance belongs to a subset; left out, all do.
    """

    name: str
    title: str
    language: str
    license: str
    license_id: str | None
    citation_key: str
    homepage: str
    layout: str
    label_sets: tuple[tuple[str, ...], ...]
    counts: Mapping[str, Mapping[str, int]]
    read: Callable[[Path], list[Utterance]]
    merged: Mapping[str, str] = field(default_factory=dict)
    in_subset: Callable[[Utterance, str], bool] = lambda utterance, subset: True

    @property
    def citation(self) -> str:
        """The BibTeX entry."""
        return citation(self.citation_key)


def citation(key: str) -> str:
    """Returns an entry of `citations.bib`."""
    entries = resources.files(__package__).joinpath("citations.bib").read_text(encoding="utf-8").strip().split("\n\n")
    return next(entry for entry in entries if entry.partition("{")[2].startswith(f"{key},"))


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


def match_names(files: Iterable[Path], pattern: str, rule: str) -> list[tuple[str, re.Match[str]]]:
    """Returns the path of each audio file with the match of its name, without the ending.

    Args:
        files: the audio files of the corpus.
        pattern: of all names. Where it has a slash, the folder that holds the file is part of the name.
        rule: description of the pattern, for error messages.

    Raises:
        CorpusError: lists files with other names or endings, or recordings that occur twice.
    """
    named, others, copies = [], [], defaultdict(list)
    for path in files:
        match = re.search(rf"(?<![^/])(?:{pattern})\Z", f"{path.parent.name}/{path.stem}")
        if match and path.suffix.lower() in READABLE:
            named.append((str(path), match))
            copies[match[0]].append(str(path))
        else:
            others.append(str(path))
    if others:
        raise CorpusError(
            f"{len(others)} audio files are not named like those of the corpus ({rule}, as .wav or .flac). Move "
            f"them elsewhere or name a folder without them:\n{format_problems(others)}"
        )
    twice = [" and ".join(paths) for paths in copies.values() if len(paths) > 1]
    if twice:
        raise CorpusError(
            f"{len(twice)} recordings occur more than once. Name the folder of one copy:\n{format_problems(twice)}"
        )
    return named
