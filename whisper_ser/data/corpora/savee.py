"""SAVEE, Surrey Audio-Visual Expressed Emotion: four men speak English sentences in seven emotions."""

from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import CorpusSpec, audio_below, match_names

EMOTIONS = {
    "a": "angry",
    "d": "disgust",
    "f": "fearful",
    "h": "happy",
    "n": "neutral",
    "sa": "sad",
    "su": "surprised",
}
NAME = rf"(DC|JE|JK|KL)[/_]({'|'.join(EMOTIONS)})\d\d"


def read(folder: Path) -> list[Utterance]:
    """Returns the utterances in `folder` or below it: a folder for each speaker, or the speaker in the name."""
    rule = "such as a01 in the folder DC, or DC_a01: speaker, emotion, number"
    named = match_names(audio_below(folder), NAME, rule)
    return [Utterance(path, EMOTIONS[name[2]], name[1], "male") for path, name in named]


SAVEE = CorpusSpec(
    name="savee",
    title="SAVEE",
    language="en",
    license="free for research, on registration",
    license_id=None,
    citation_key="haq2010savee",
    homepage="http://kahlan.eps.surrey.ac.uk/savee/",
    layout="  AudioData/DC/a01.wav ... (and JE, JK, KL), or all files in one folder as DC_a01.wav ...",
    label_sets=(("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),),
    counts={"all": {**dict.fromkeys(EMOTIONS.values(), 60), "neutral": 120}},
    read=read,
)
