"""ShEMO, the Sharif Emotional Speech Database: Persian radio plays, 87 speakers."""

from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import GENDERS, CorpusSpec, audio_below, matched, utterances_by_name

EMOTIONS = {"A": "angry", "F": "fearful", "H": "happy", "N": "neutral", "S": "sad", "W": "surprised"}
NAME = r"([FM])(\d\d)([AFHNSW])\d{2,3}"

# The last female and the last male speaker of each of the ten groups that the paper holds out in turn (arXiv
# 2602.06000; the groups themselves are those of its released code).
LAST_OF_GROUP = {"F": (3, 6, 9, 12, 15, 18, 21, 24, 27, 31), "M": (6, 12, 18, 24, 30, 36, 41, 46, 51, 56)}


def speaker_group(gender: str, number: int) -> str | None:
    """Returns the group, `1` to `10`, of the speaker with this gender letter and number, or `None` for no speaker."""
    groups = (str(n) for n, last in enumerate(LAST_OF_GROUP[gender], 1) if 1 <= number <= last)
    return next(groups, None)


def read(folder: Path) -> list[Utterance]:
    """Returns the utterances in `folder` or below it."""
    return utterances_by_name(audio_below(folder), _utterance, "such as F03S02: speaker, emotion, number")


def _utterance(path: Path) -> Utterance | None:
    match = matched(NAME, path)
    if not match:
        return None
    gender, number, emotion = match.groups()
    group = speaker_group(gender, int(number))
    if group is None:
        return None
    return Utterance(str(path), EMOTIONS[emotion], gender + number, GENDERS[gender], group=group, fold=group)


SHEMO = CorpusSpec(
    name="shemo",
    title="ShEMO",
    language="fa",
    license="free for academic use, no licence text from its publisher",
    license_id=None,
    citation="""@article{nezami2019shemo,
  title = {{ShEMO}: a large-scale validated database for {Persian} speech emotion detection},
  author = {Mohamad Nezami, Omid and Jamshid Lou, Paria and Karami, Mansoureh},
  journal = {Language Resources and Evaluation},
  volume = {53},
  number = {1},
  pages = {1--16},
  year = {2019},
  doi = {10.1007/s10579-018-9427-x},
}""",
    homepage="https://github.com/mansourehk/ShEMO",
    layout="  female/F01A01.wav ...\n  male/M01A01.wav ...",
    label_sets=(
        ("angry", "happy", "neutral", "sad", "surprised"),
        ("angry", "happy", "neutral", "sad"),
        ("angry", "fearful", "happy", "neutral", "sad", "surprised"),
    ),
    counts={
        "all": {
            "angry": 1042,
            "fearful": 32,
            "happy": 203,
            "neutral": 1160,
            "sad": 362,
            "surprised": 201,
        }
    },
    read=read,
    folds="ten groups of speakers, each held out once: F01-03 M01-06, F04-06 M07-12, F07-09 M13-18, F10-12 M19-24, "
    "F13-15 M25-30, F16-18 M31-36, F19-21 M37-41, F22-24 M42-46, F25-27 M47-51, F28-31 M52-56",
)
