"""EmoDB, the Berlin Database of Emotional Speech: ten actors speak ten German sentences."""

from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import CorpusSpec, audio_below, matched, utterances_by_name

EMOTIONS = {
    "A": "fearful",  # Angst
    "E": "disgust",  # Ekel
    "F": "happy",  # Freude
    "L": "bored",  # Langeweile
    "N": "neutral",
    "T": "sad",  # Trauer
    "W": "angry",  # Wut
}
FEMALE = ("08", "09", "13", "14", "16")
MALE = ("03", "10", "11", "12", "15")
NAME = rf"({'|'.join(FEMALE + MALE)})[ab]\d\d([AEFLNTW])[a-z]"


def read(folder: Path) -> list[Utterance]:
    """Returns the utterances in `folder` or below it."""
    return utterances_by_name(audio_below(folder), _utterance, "such as 03a01Fa: speaker, text, emotion, version")


def _utterance(path: Path) -> Utterance | None:
    match = matched(NAME, path)
    if not match:
        return None
    speaker, emotion = match.groups()
    return Utterance(str(path), EMOTIONS[emotion], speaker, "female" if speaker in FEMALE else "male")


EMODB = CorpusSpec(
    name="emodb",
    title="EmoDB",
    language="de",
    license="CC0 1.0 (its releases on Zenodo and audb)",
    license_id="cc0-1.0",
    citation="""@inproceedings{burkhardt2005emodb,
  title = {A Database of German Emotional Speech},
  author = {Burkhardt, Felix and Paeschke, Astrid and Rolfes, Miriam and Sendlmeier, Walter and Weiss, Benjamin},
  booktitle = {Proc. Interspeech},
  pages = {1517--1520},
  year = {2005},
}""",
    homepage="http://emodb.bilderbar.info",
    layout="  wav/03a01Fa.wav ...",
    label_sets=(
        ("angry", "bored", "disgust", "fearful", "happy", "neutral", "sad"),
        ("angry", "happy", "neutral", "sad"),
    ),
    counts={
        "all": {
            "angry": 127,
            "bored": 81,
            "disgust": 46,
            "fearful": 69,
            "happy": 71,
            "neutral": 79,
            "sad": 62,
        }
    },
    read=read,
)
