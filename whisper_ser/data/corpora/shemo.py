"""ShEMO, the Sharif Emotional Speech Database: Persian radio plays, 87 speakers."""

from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import GENDERS, CorpusSpec, audio_below, match_names

EMOTIONS = {"A": "angry", "F": "fearful", "H": "happy", "N": "neutral", "S": "sad", "W": "surprised"}
# The last female and the last male speaker of each of the ten groups that the paper holds out in turn (arXiv
# 2602.06000; the groups themselves are those of its released code).
LAST_OF_GROUP = {"F": (3, 6, 9, 12, 15, 18, 21, 24, 27, 31), "M": (6, 12, 18, 24, 30, 36, 41, 46, 51, 56)}
GROUP_OF_SPEAKER = {
    f"{letter}{number:02d}": str(group)
    for letter, lasts in LAST_OF_GROUP.items()
    for group, (before, last) in enumerate(zip((0, *lasts), lasts, strict=False), 1)
    for number in range(before + 1, last + 1)
}
NAME = rf"({'|'.join(GROUP_OF_SPEAKER)})([AFHNSW])\d{{2,3}}"


def read(folder: Path) -> list[Utterance]:
    """Returns the utterances in `folder` or below it."""
    named = match_names(audio_below(folder), NAME, "such as F03S02: speaker, emotion, number")
    return [_utterance(path, *name.groups()) for path, name in named]


def _utterance(path: str, speaker: str, emotion: str) -> Utterance:
    group = GROUP_OF_SPEAKER[speaker]
    return Utterance(path, EMOTIONS[emotion], speaker, GENDERS[speaker[0]], group=group, fold=group)


SHEMO = CorpusSpec(
    name="shemo",
    title="ShEMO",
    language="fa",
    license="free for academic use, no licence text from its publisher",
    license_id=None,
    citation_key="nezami2019shemo",
    homepage="https://github.com/mansourehk/ShEMO",
    layout="  female/F01A01.wav ...\n  male/M01A01.wav ...",
    label_sets=(
        ("angry", "happy", "neutral", "sad", "surprised"),
        ("angry", "happy", "neutral", "sad"),
        ("angry", "fearful", "happy", "neutral", "sad", "surprised"),
    ),
    counts={
        "all": {"angry": 1042, "fearful": 32, "happy": 203, "neutral": 1160, "sad": 362, "surprised": 201},
    },
    read=read,
)
