"""RAVDESS, the speech part: 24 actors speak two sentences in eight emotions."""

import re
from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import CorpusSpec, audio_below, match_names

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
EMOBOX_FOLDS = {
    "1": ("01", "11", "20", "21"),
    "2": ("04", "10", "12", "14"),
    "3": ("08", "09", "19", "23"),
    "4": ("03", "05", "07", "24"),
    "5": ("02", "15", "16", "18"),
    "6": ("06", "13", "17", "22"),
}
FOLD_OF_ACTOR = {actor: fold for fold, actors in EMOBOX_FOLDS.items() for actor in actors}
SPEECH = rf"03-01-(0[1-8])-0[12]-0[12]-0[12]-({'|'.join(FOLD_OF_ACTOR)})"
SONG = r"03-02-0[1-6]-0[12]-0[12]-0[12]-\d\d"


def read(folder: Path) -> list[Utterance]:
    """Returns the spoken utterances in `folder` or below it; songs are passed over."""
    speech = [path for path in audio_below(folder) if not re.fullmatch(SONG, path.stem)]
    rule = "such as 03-01-05-01-02-01-18: audio, speech, emotion, intensity, statement, repetition, actor"
    return [_utterance(path, *name.groups()) for path, name in match_names(speech, SPEECH, rule)]


def _utterance(path: str, emotion: str, actor: str) -> Utterance:
    gender = "male" if int(actor) % 2 else "female"
    return Utterance(path, EMOTIONS[emotion], actor, gender, fold=FOLD_OF_ACTOR[actor])


RAVDESS = CorpusSpec(
    name="ravdess",
    title="RAVDESS (speech)",
    language="en",
    license="CC BY-NC-SA 4.0",
    license_id="cc-by-nc-sa-4.0",
    citation_key="livingstone2018ravdess",
    homepage="https://zenodo.org/records/1188976",
    layout="  Actor_01/03-01-01-01-01-01-01.wav ...\n  Actor_24/03-01-01-01-01-01-24.wav ...",
    label_sets=(("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),),
    # Neutral is the only emotion without a strong intensity.
    counts={"all": {**dict.fromkeys(EMOTIONS.values(), 192), "neutral": 96}},
    read=read,
)
