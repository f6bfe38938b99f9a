"""SAVEE, Surrey Audio-Visual Expressed Emotion: four men speak English sentences in seven emotions."""

from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import CorpusSpec, audio_below, matched, utterances_by_name

EMOTIONS = {
    "a": "angry",
    "d": "disgust",
    "f": "fearful",
    "h": "happy",
    "n": "neutral",
    "sa": "sad",
    "su": "surprised",
}
SPEAKERS = ("DC", "JE", "JK", "KL")
NAME = rf"(?:({'|'.join(SPEAKERS)})_)?({'|'.join(EMOTIONS)})\d\d"


def read(folder: Path) -> list[Utterance]:
    """Returns the utterances in `folder` or below it: a folder for each speaker, or the speaker in the name."""
    rule = "such as a01 in the folder DC, or DC_a01: speaker, emotion, number"
    return utterances_by_name(audio_below(folder), _utterance, rule)


def _utterance(path: Path) -> Utterance | None:
    match = matched(NAME, path)
    if not match:
        return None
    speaker = match[1] or path.parent.name
    return Utterance(str(path), EMOTIONS[match[2]], speaker, "male") if speaker in SPEAKERS else None


SAVEE = CorpusSpec(
    name="savee",
    title="SAVEE",
    language="en",
    license="free for research, on registration",
    license_id=None,
    citation="""@incollection{haq2010savee,
  title = {Multimodal Emotion Recognition},
  author = {Haq, Sanaul and Jackson, Philip J. B.},
  booktitle = {Machine Audition: Principles, Algorithms and Systems},
  editor = {Wang, Wenwu},
  publisher = {IGI Global},
  pages = {398--423},
  year = {2010},
}""",
    homepage="http://kahlan.eps.surrey.ac.uk/savee/",
    layout="  AudioData/DC/a01.wav ... (and JE, JK, KL), or all files in one folder as DC_a01.wav ...",
    label_sets=(("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),),
    counts={
        "all": {
            "angry": 60,
            "disgust": 60,
            "fearful": 60,
            "happy": 60,
            "neutral": 120,
            "sad": 60,
            "surprised": 60,
        }
    },
    read=read,
)
