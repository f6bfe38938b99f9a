"""EmoDB, the Berlin Database of Emotional Speech: ten actors speak ten German sentences."""

from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import CorpusSpec, audio_below, match_names

EMOTIONS = {
    "A": "fearful",  # Angst
    "E": "disgust",  # Ekel
    "F": "happy",  # Freude
    "L": "bored",  # Langeweile
    "N": "neutral",
    "T": "sad",  # Trauer
    "W": "angry",  # Wut
}
GENDER_OF_SPEAKER = dict.fromkeys(("08", "09", "13", "14", "16"), "female")
GENDER_OF_SPEAKER |= dict.fromkeys(("03", "10", "11", "12", "15"), "male")
NAME = rf"({'|'.join(GENDER_OF_SPEAKER)})[ab]\d\d([AEFLNTW])[a-z]"


def read(folder: Path) -> list[Utterance]:
    """Returns the utterances in `folder` or below it."""
    named = match_names(audio_below(folder), NAME, "such as 03a01Fa: speaker, text, emotion, version")
    return [Utterance(path, EMOTIONS[name[2]], name[1], GENDER_OF_SPEAKER[name[1]]) for path, name in named]


EMODB = CorpusSpec(
    name="emodb",
    title="EmoDB",
    language="de",
    license="CC0 1.0 (its releases on Zenodo and audb)",
    license_id="cc0-1.0",
    citation_key="burkhardt2005emodb",
    homepage="http://emodb.bilderbar.info",
    layout="  wav/03a01Fa.wav ...",
    label_sets=(
        ("angry", "bored", "disgust", "fearful", "happy", "neutral", "sad"),
        ("angry", "happy", "neutral", "sad"),
    ),
    counts={
        "all": {"angry": 127, "bored": 81, "disgust": 46, "fearful": 69, "happy": 71, "neutral": 79, "sad": 62},
    },
    read=read,
)
