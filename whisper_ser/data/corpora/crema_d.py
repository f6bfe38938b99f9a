"""CREMA-D: 91 actors speak twelve English sentences in six emotions."""

import csv
from pathlib import Path

from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import CorpusSpec, audio_below, files_below, match_names

EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
NAME = rf"(1\d{{3}})_[A-Z]{{3}}_({'|'.join(EMOTIONS)})_(?:LO|MD|HI|XX?)"  # 1040_ITH_SAD_X is published with one X


def read(folder: Path) -> list[Utterance]:
    """Returns the utterances of `AudioWAV`, or of any folder of such files; gender from `VideoDemographics.csv`."""
    demographics = [path for path in files_below(folder) if path.name == "VideoDemographics.csv"]
    genders = _genders(demographics[0]) if demographics else {}
    audio = audio_below(folder)
    # The repository has the same recordings as MP3 in a folder beside this one.
    published = [path for path in audio if path.parent.name == "AudioWAV"]
    named = match_names(published or audio, NAME, "such as 1001_DFA_ANG_XX: actor, sentence, emotion, level")
    return [Utterance(path, EMOTIONS[name[2]], name[1], genders.get(name[1], "")) for path, name in named]


def _genders(table: Path) -> dict[str, str]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        return {row.get("ActorID", ""): (row.get("Sex") or "").strip().lower() for row in csv.DictReader(file)}


CREMA_D = CorpusSpec(
    name="crema_d",
    title="CREMA-D",
    language="en",
    license="Open Database License 1.0, contents under the Database Contents License",
    license_id="odbl",
    citation_key="cao2014cremad",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    layout="  AudioWAV/1001_DFA_ANG_XX.wav ...\n  VideoDemographics.csv (for the gender; may be absent)",
    label_sets=(("angry", "disgust", "fearful", "happy", "neutral", "sad"),),
    counts={
        "all": {"angry": 1271, "disgust": 1271, "fearful": 1271, "happy": 1271, "neutral": 1087, "sad": 1271},
    },
    read=read,
)
