"""TESS, the Toronto Emotional Speech Set: two actresses, an older and a younger, say 200 words in seven emotions."""

from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import CorpusSpec, audio_below, match_names

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprised",  # pleasant surprise
    "sad": "sad",
}
NAME = rf"(OA|YA)F?_[a-z]+_({'|'.join(EMOTIONS)})"  # one published file begins with OA


def read(folder: Path) -> list[Utterance]:
    """Returns the utterances in `folder` or below it."""
    named = match_names(audio_below(folder), NAME, "such as OAF_back_angry: speaker, word, emotion")
    return [Utterance(path, EMOTIONS[name[2]], f"{name[1]}F", "female") for path, name in named]


TESS = CorpusSpec(
    name="tess",
    title="TESS",
    language="en",
    license="CC BY-NC-ND 4.0",
    license_id="cc-by-nc-nd-4.0",
    citation_key="pichorafuller2020tess",
    homepage="https://tspace.library.utoronto.ca/handle/1807/24487",
    layout="  OAF_angry/OAF_back_angry.wav ...\n  YAF_angry/YAF_back_angry.wav ... (or all files in one folder)",
    label_sets=(("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),),
    counts={"all": dict.fromkeys(EMOTIONS.values(), 400)},
    read=read,
)
