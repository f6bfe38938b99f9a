"""RAVDESS, the speech part: 24 actors speak two sentences in eight emotions."""

from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import CorpusSpec, audio_below, matched, utterances_by_name

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
SPEECH = r"03-01-(0[1-8])-0[12]-0[12]-0[12]-(\d\d)"
SONG = r"03-02-0[1-6]-0[12]-0[12]-0[12]-\d\d"


def read(folder: Path) -> list[Utterance]:
    """Returns the spoken utterances in `folder` or below it; songs are passed over."""
    speech = [path for path in audio_below(folder) if not matched(SONG, path)]
    rule = "such as 03-01-05-01-02-01-18: audio, speech, emotion, intensity, statement, repetition, actor"
    return utterances_by_name(speech, _utterance, rule)


def _utterance(path: Path) -> Utterance | None:
    match = matched(SPEECH, path)
    if not match or match[2] not in FOLD_OF_ACTOR:
        return None
    emotion, actor = match.groups()
    gender = "male" if int(actor) % 2 else "female"
    return Utterance(str(path), EMOTIONS[emotion], actor, gender, fold=FOLD_OF_ACTOR[actor])


RAVDESS = CorpusSpec(
    name="ravdess",
    title="RAVDESS (speech)",
    language="en",
    license="CC BY-NC-SA 4.0",
    license_id="cc-by-nc-sa-4.0",
    citation="""@article{livingstone2018ravdess,
  title = {The {Ryerson} Audio-Visual Database of Emotional Speech and Song ({RAVDESS}): A dynamic, multimodal set of
    facial and vocal expressions in {North American English}},
  author = {Livingstone, Steven R. and Russo, Frank A.},
  journal = {PLoS ONE},
  volume = {13},
  number = {5},
  pages = {e0196391},
  year = {2018},
  doi = {10.1371/journal.pone.0196391},
}""",
    homepage="https://zenodo.org/records/1188976",
    layout="  Actor_01/03-01-01-01-01-01-01.wav ...\n  Actor_24/03-01-01-01-01-01-24.wav ...",
    label_sets=(("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),),
    counts={
        "all": {
            "angry": 192,
            "calm": 192,
            "disgust": 192,
            "fearful": 192,
            "happy": 192,
            "neutral": 96,  # the only emotion without a strong intensity
            "sad": 192,
            "surprised": 192,
        }
    },
    read=read,
    folds="EmoBox's six, by actor: "
    + "; ".join(f"{fold}: {' '.join(actors)}" for fold, actors in EMOBOX_FOLDS.items()),
)
