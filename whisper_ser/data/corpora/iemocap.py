"""IEMOCAP: ten actors in five sessions of dialogues, improvised and scripted."""

import re
from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import GENDERS, READABLE, CorpusSpec, audio_below, matched, root_with
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
NAME = r"(?P<dialogue>Ses0(?P<session>[1-5])[FM]_(?:impro|script)\w*)_[FM]\w{3}"


def read(folder: Path) -> list[Utterance]:
    """Returns every labelled utterance whose audio exists.

    Raises:
        CorpusError: lists lines of the label files that cannot be read, or audio files with other names.
    """
    root = root_with(folder, "Session[1-5]/dialog/EmoEvaluation")
    if root is None:
        return []
    strangers = [
        str(path)
        for session in sorted(root.glob("Session[1-5]/sentences/wav"))
        for path in audio_below(session)
        if path.suffix.lower() not in READABLE or not matched(NAME, path)
    ]
    if strangers:
        raise CorpusError(
            f"{len(strangers)} audio files of {root} are not named like those of IEMOCAP (such as "
            f"Ses01F_impro01_F000.wav). Move them elsewhere:\n{format_problems(strangers)}"
        )
    labels = _labels(root)
    found = ((_audio_of(root, name), name, emotion) for name, emotion in labels.items())
    return [_utterance(path, name, emotion) for path, name, emotion in found if path]


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


def _audio_of(root: Path, name: str) -> Path | None:
    match = re.fullmatch(NAME, name)
    if match is None:
        return None
    stem = root / f"Session{match['session']}" / "sentences" / "wav" / match["dialogue"] / name
    return next((path for ending in READABLE if (path := stem.with_name(name + ending)).is_file()), None)


def speaker_of(name: str) -> str:
    """Returns the speaker of an utterance, such as `Ses01M` of `Ses01F_impro01_M000`.

    The letter after the session is that of the actor with the motion-capture markers; the letter at the beginning of
    the last part is that of the speaker.
    """
    return name[:5] + name.rsplit("_", 1)[1][0]


def _utterance(path: Path, name: str, emotion: str) -> Utterance:
    speaker, session = speaker_of(name), name[4]
    return Utterance(str(path), emotion, speaker, GENDERS[speaker[-1]], group=f"Session{session}", fold=session)


def _in_subset(utterance: Utterance, subset: str) -> bool:
    return subset == "all" or "_impro" in Path(utterance.path).stem


IEMOCAP = CorpusSpec(
    name="iemocap",
    title="IEMOCAP",
    language="en",
    license="IEMOCAP licence agreement (free for academic research, on request)",
    license_id=None,
    citation="""@article{busso2008iemocap,
  title = {{IEMOCAP}: Interactive emotional dyadic motion capture database},
  author = {Busso, Carlos and Bulut, Murtaza and Lee, Chi-Chun and Kazemzadeh, Abe and Mower, Emily and Kim, Samuel and
    Chang, Jeannette N. and Lee, Sungbok and Narayanan, Shrikanth S.},
  journal = {Language Resources and Evaluation},
  volume = {42},
  number = {4},
  pages = {335--359},
  year = {2008},
  doi = {10.1007/s10579-008-9076-6},
}""",
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
    folds="five, each holding out one session and its two speakers",
)
