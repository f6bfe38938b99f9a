"""MELD: dialogues of the TV series Friends in fixed training, development and test parts."""

import csv
import logging
import re
from pathlib import Path

from whisper_ser.audio.decoding import reads_video
from whisper_ser.data.corpora.dataset import Utterance
from whisper_ser.data.corpora.published import READABLE, CorpusSpec, files_below
from whisper_ser.errors import CorpusError, format_problems

logger = logging.getLogger(__name__)

EMOTIONS = {
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fearful",
    "joy": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprised",
}
PART_OF_FOLDER = {
    "train_splits": "train",
    "dev_splits_complete": "dev",
    "output_repeated_splits_test": "test",
    "train": "train",
    "dev": "dev",
    "test": "test",
}
GENDER_OF_LEAD = dict.fromkeys(("Monica", "Phoebe", "Rachel"), "female")
GENDER_OF_LEAD |= dict.fromkeys(("Chandler", "Joey", "Ross"), "male")
COLUMNS = ("Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
CONVERT = "ffmpeg -i dia0_utt0.mp4 -ac 1 -ar 16000 dia0_utt0.wav"


def read(folder: Path) -> list[Utterance]:
    """Returns every utterance of the three tables whose audio exists.

    Raises:
        CorpusError: a table lacks a column or has an unknown emotion, or there are videos but no audio.
    """
    tables, audio, videos = _found(folder)
    rows = [(part, row) for part, table in tables.items() for row in _rows(table)]
    utterances, only_video = [], 0
    for part, row in rows:
        key = part, f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        if key in audio:
            gender = GENDER_OF_LEAD.get(row["Speaker"], "")
            utterances.append(Utterance(str(audio[key]), EMOTIONS[row["Emotion"]], row["Speaker"], gender, group=part))
        elif key in videos:
            only_video += 1
    if only_video and not utterances:
        raise CorpusError(
            f"{folder} holds MELD's videos (.mp4) and no audio. Install torchcodec and FFmpeg to read them, or "
            f"convert each of the {only_video} into a .wav or .flac beside it, with the same name: {CONVERT}"
        )
    if only_video:
        logger.warning("%d utterances of %s are there as .mp4 only; convert them: %s", only_video, folder, CONVERT)
    return utterances


def _found(folder: Path) -> tuple[dict[str, Path], dict[tuple[str, str], Path], set[tuple[str, str]]]:
    """Returns the table of each part, the audio of each (part, utterance), and those with a video."""
    tables: dict[str, Path] = {}
    audio: dict[tuple[str, str], Path] = {}
    videos: dict[tuple[str, str], Path] = {}
    for path in files_below(folder):
        if match := re.fullmatch(r"(train|dev|test)_sent_emo\.csv", path.name):
            tables.setdefault(match[1], path)
        # Other names, such as final_videos_testdia0_utt0, are repetitions that are not in the tables.
        elif re.fullmatch(r"dia\d+_utt\d+", path.stem):
            parents = path.relative_to(folder).parent.parts
            part = next((PART_OF_FOLDER[name] for name in reversed(parents) if name in PART_OF_FOLDER), "")
            if path.suffix.lower() in READABLE:
                audio.setdefault((part, path.stem), path)
            elif path.suffix.lower() == ".mp4":
                videos.setdefault((part, path.stem), path)
    if reads_video():
        audio = videos | audio
    return tables, audio, {*videos}


def _rows(table: Path) -> list[dict[str, str]]:
    with open(table, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise CorpusError(f"{table} lacks {' and '.join(missing)}: it is not a table of MELD as published.")
        rows = [{column: (row[column] or "").strip() for column in COLUMNS} for row in reader]
    unknown = [f"line {n}: {row['Emotion']!r}" for n, row in enumerate(rows, 2) if row["Emotion"] not in EMOTIONS]
    if unknown:
        raise CorpusError(f"{table} has emotions other than {', '.join(EMOTIONS)}:\n{format_problems(unknown)}")
    return rows


MELD = CorpusSpec(
    name="meld",
    title="MELD",
    language="en",
    license="GPL-3.0 (that of its repository; the recordings are of a TV series)",
    license_id=None,
    citation_key="poria2019meld",
    homepage="https://affective-meld.github.io",
    layout="  train/train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv\n"
    "  train/train_splits/dia0_utt0.wav ...\n  dev_splits_complete/dia0_utt0.wav ...\n"
    "  output_repeated_splits_test/dia0_utt0.wav ...\n"
    f"  (distributed as .mp4; install torchcodec, or convert each: {CONVERT})",
    label_sets=(("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"),),
    counts={
        "all": {
            "angry": 1607,
            "disgust": 361,
            "fearful": 358,
            "happy": 2308,
            # The tables have two more, whose videos are absent (dev dia110_utt7) and broken (train dia125_utt3).
            "neutral": 6434,
            "sad": 1002,
            "surprised": 1636,
        }
    },
    read=read,
)
