"""IEMOCAP: ten actors in five sessions of dialogues, improvised and scripted."""

import re
from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import GENDERS, CorpusSpec, audio_below, match_names
from whisper_ser.errors import CorpusError, format_problems

EMOTIONS = {
    "ang": "angry",
    "dis": "disgust",
    "exc": "excited",
    "fea": "fearful",
    "fru": "frustrated",
    "hap": "happy",
    "neu": "neutral",
    "oth": "other",
    "sad": "sad",
    "sur": "surprised",
    "xxx": "undecided",  # the raters did not agree
}
# [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
LABEL_LINE = re.compile(r"\[[\d.]+ - [\d.]+\]\t(?P<name>\S+)\t(?P<emotion>[a-z]{3})\t\[")
# The letter after the session is that of the actor with the motion-capture markers; the letter at the beginning of the
# last part is that of the speaker.
NAME = r"Ses0([1-5])[FM]_(?:impro|script)\w*_([FM])\w{3}"


def read(folder: Path) -> list[Utterance]:
    """Returns every labelled utterance whose audio exists.

    Raises:
        CorpusError: lists lines of the label files that cannot be read, or audio files with other names.
    """
    root = _root(folder)
    if root is None:
        return []
    labels = _labels(root)
    audio = [path for wav in sorted(root.glob("Session[1-5]/sentences/wav")) for path in audio_below(wav)]
    named = match_names(audio, NAME, "such as Ses01F_impro01_F000: session, dialogue, speaker, turn")
    return [_utterance(path, labels[name[0]], *name.groups()) for path, name in named if name[0] in labels]


def _utterance(path: str, emotion: str, session: str, letter: str) -> Utterance:
    speaker = f"Ses0{session}{letter}"
    return Utterance(path, emotion, speaker, GENDERS[letter], group=f"Session{session}", fold=session)


def _root(folder: Path) -> Path | None:
    """Returns `folder`, or the one folder in it, that has label files; else `None`."""
    tables = "Session[1-5]/dialog/EmoEvaluation"
    if any(folder.glob(tables)):
        return folder
    roots = [path for path in sorted(folder.iterdir()) if path.is_dir() and any(path.glob(tables))]
    if len(roots) > 1:
        raise CorpusError(
            f"{folder} holds several copies of the corpus; name one:\n{format_problems([str(r) for r in roots])}"
        )
    return roots[0] if roots else None


def _labels(root: Path) -> dict[str, str]:
    """Returns the emotion of each utterance in `Session*/dialog/EmoEvaluation/*.txt`."""
    labels: dict[str, str] = {}
    problems = []
    for table in sorted(root.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt")):
        for number, line in enumerate(table.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if not line.startswith("["):
                continue  # the header, blank lines, and the raters' single votes (C-E1:, A-E1:, C-F1: ...)
            match = LABEL_LINE.match(line)
            if not match or match["emotion"] not in EMOTIONS or not re.fullmatch(NAME, match["name"]):
                problems.append(f"{table}, line {number}: {line}")
            elif match["name"] in labels:
                problems.append(f"{table}, line {number}: {match['name']} is labelled twice")
            else:
                labels[match["name"]] = EMOTIONS[match["emotion"]]
    if problems:
        raise CorpusError(
            f"{len(problems)} label lines cannot be read; expected [start - end], utterance, emotion ("
            f"{', '.join(EMOTIONS)}) and [V, A, D] between tabs:\n{format_problems(problems)}"
        )
    return labels


def _in_subset(utterance: Utterance, subset: str) -> bool:
    return subset == "all" or "_impro" in Path(utterance.path).stem


IEMOCAP = CorpusSpec(
    name="iemocap",
    title="IEMOCAP",
    language="en",
    license="IEMOCAP licence agreement (free for academic research, on request)",
    license_id=None,
    citation_key="busso2008iemocap",
    homepage="https://sail.usc.edu/iemocap/iemocap_release.htm",
    layout="  Session1/dialog/EmoEvaluation/Ses01F_impro01.txt ...\n"
    "  Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav ...\n  ... Session5/",
    label_sets=(
        ("angry", "happy", "neutral", "sad"),
        ("angry", "excited", "happy", "neutral", "sad"),
        ("angry", "excited", "frustrated", "happy", "neutral", "sad"),
    ),
    counts={
        # Counted from the labels of the corpus; for other emotions no counts of improvised utterances are published.
        "improvised": {"angry": 289, "excited": 663, "happy": 284, "neutral": 1099, "sad": 608},
        "all": {
            "angry": 1103,
            "disgust": 2,
            "excited": 1041,
            "fearful": 40,
            "frustrated": 1849,
            "happy": 595,
            "neutral": 1708,
            "other": 3,
            "sad": 1084,
            "surprised": 107,
            "undecided": 2507,
        },
    },
    read=read,
    merged={"excited": "happy"},
    in_subset=_in_subset,
)
