"""TESS, the Toronto Emotional Speech Set: two actresses, an older and a younger, say 200 words in seven emotions."""

from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import CorpusSpec, audio_below, matched, utterances_by_name

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprised",  # pleasant surprise
    "sad": "sad",
}
NAME = rf"(OAF?|YAF)_[a-z]+_({'|'.join(EMOTIONS)})"  # one published file begins with OA


def read(folder: Path) -> list[Utterance]:
    """Returns the utterances in `folder` or below it."""
    return utterances_by_name(audio_below(folder), _utterance, "such as OAF_back_angry: speaker, word, emotion")


def _utterance(path: Path) -> Utterance | None:
    match = matched(NAME, path)
    if not match:
        return None
    speaker = "OAF" if match[1].startswith("O") else "YAF"
    return Utterance(str(path), EMOTIONS[match[2]], speaker, "female")


TESS = CorpusSpec(
    name="tess",
    title="TESS",
    language="en",
    license="CC BY-NC-ND 4.0",
    license_id="cc-by-nc-nd-4.0",
    citation="""@misc{pichorafuller2020tess,
  title = {{Toronto} Emotional Speech Set ({TESS})},
  author = {Pichora-Fuller, M. Kathleen and Dupuis, Kate},
  publisher = {Borealis},
  year = {2020},
  doi = {10.5683/SP2/E8H2MF},
}""",
    homepage="https://tspace.library.utoronto.ca/handle/1807/24487",
    layout="  OAF_angry/OAF_back_angry.wav ...\n  YAF_angry/YAF_back_angry.wav ... (or all files in one folder)",
    label_sets=(("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),),
    counts={"all": dict.fromkeys(("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"), 400)},
    read=read,
)
