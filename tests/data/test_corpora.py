"""Corpora by name, from folders laid out and named as their publishers distribute them."""

import csv
import logging
import os
import re
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from datasets import Dataset

from whisper_ser.data.corpora import emobox
from whisper_ser.data.corpora.published import citation
from whisper_ser.data.corpora.registry import CORPORA, load_corpus
from whisper_ser.errors import CorpusError

EMODB_NAMES = [  # speakers and emotions of the Berlin corpus; every emotion's published count is reached below
    ("W", 127),
    ("L", 81),
    ("E", 46),
    ("A", 69),
    ("F", 71),
    ("N", 79),
    ("T", 62),
]
EMODB_SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")


def write_files(folder: Path, names: list[str]) -> Path:
    """Puts one tiny recording under every name."""
    folder.mkdir(parents=True, exist_ok=True)
    recordings = {}
    for ending in (".wav", ".flac"):
        recordings[ending] = folder / f".one{ending}"
        soundfile.write(recordings[ending], np.zeros(160, dtype=np.float32), 16000)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(recordings.get(path.suffix, recordings[".wav"]), path)
    return folder


def counts(corpus: Dataset) -> dict[str, int]:
    names = corpus.features["emotion"].names
    return dict(Counter(names[emotion] for emotion in corpus["emotion"]))


def row(corpus: Dataset, stem: str) -> dict[str, str]:
    """The one row of a recording, with the emotion by name."""
    rows = [row for row in corpus if Path(row["path"]).stem == stem]
    assert len(rows) == 1
    return {**rows[0], "emotion": corpus.features["emotion"].names[rows[0]["emotion"]]}


# --- EmoDB


def emodb_names() -> list[str]:
    names = []
    for letter, count in EMODB_NAMES:
        for n in range(count):
            names.append(f"wav/{EMODB_SPEAKERS[n % 10]}a{n // 10 + 1:02d}{letter}{'abcdef'[n % 6]}.wav")
    return names


@pytest.fixture(scope="module")
def emodb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_files(tmp_path_factory.mktemp("emodb") / "download", emodb_names())
    (folder / "erkennung.txt").write_text("not audio")
    (folder / "wav" / "._03a01Wa.wav").write_text("what macOS leaves")
    return folder


def test_emodb_is_complete_with_the_published_counts(emodb: Path) -> None:
    corpus = load_corpus("emodb", emodb)
    assert corpus.num_rows == 535
    assert counts(corpus) == {
        "angry": 127,
        "bored": 81,
        "disgust": 46,
        "fearful": 69,
        "happy": 71,
        "neutral": 79,
        "sad": 62,
    }
    assert row(corpus, "03a01Wa") == {
        "path": str(emodb / "wav" / "03a01Wa.wav"),
        "emotion": "angry",
        "speaker": "03",
        "gender": "male",
        "language": "de",
        "group": "",
        "fold": "",
    }
    genders = dict(zip(corpus["speaker"], corpus["gender"], strict=True))
    assert sorted(s for s, gender in genders.items() if gender == "female") == ["08", "09", "13", "14", "16"]
    assert len(genders) == 10


def test_labels_choose_emotions_and_the_order_of_the_logits(emodb: Path) -> None:
    corpus = load_corpus("emodb", emodb, labels=["sad", "angry"])
    assert corpus.features["emotion"].names == ["sad", "angry"]
    assert counts(corpus) == {"sad": 62, "angry": 127}
    assert counts(load_corpus("emodb", emodb, classes=4)) == {"angry": 127, "happy": 71, "neutral": 79, "sad": 62}


def test_the_parent_of_the_archive_will_do(emodb: Path) -> None:
    assert load_corpus("emodb", emodb.parent).num_rows == 535


def test_a_folder_below_the_deepest_layout_is_not_searched(tmp_path: Path) -> None:
    write_files(tmp_path / "1" / "2" / "3" / "4" / "5", ["03a01Wa.wav"])
    with pytest.raises(CorpusError, match="angry +0 of 127"):
        load_corpus("emodb", tmp_path)


def test_the_dataset_knows_where_it_comes_from(emodb: Path) -> None:
    info = load_corpus("emodb", emodb).info
    assert info.dataset_name == "emodb"
    assert info.homepage == "http://emodb.bilderbar.info"
    assert "burkhardt2005emodb" in info.citation
    assert info.license


def test_an_incomplete_folder_is_told_what_it_lacks_and_where_to_get_it(tmp_path: Path) -> None:
    names = emodb_names()
    write_files(tmp_path, [name for name in names if name != "wav/03a01Wa.wav"])
    with pytest.raises(CorpusError) as error:
        load_corpus("emodb", tmp_path)
    message = str(error.value)
    assert "angry          126 of 127" in message
    assert "sad             62 of 62" in message
    assert "http://emodb.bilderbar.info" in message
    assert "wav/03a01Fa.wav" in message
    assert "allow_incomplete" in message


def test_only_the_emotions_asked_for_must_be_complete(tmp_path: Path) -> None:
    write_files(tmp_path, [name for name in emodb_names() if name != "wav/03a01Wa.wav"])
    assert counts(load_corpus("emodb", tmp_path, labels=["sad", "happy"])) == {"sad": 62, "happy": 71}


def test_incomplete_corpora_are_logged_where_they_are_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path, ["wav/03a01Wa.wav", "wav/08a01Ta.flac"])
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus("emodb", tmp_path, allow_incomplete=True)
    assert counts(corpus) == {"angry": 1, "sad": 1}
    assert corpus.features["emotion"].names == list(CORPORA["emodb"].label_sets[0])
    assert "angry            1 of 127" in caplog.text


def test_more_utterances_than_published_are_logged(
    emodb: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path, [*emodb_names(), "wav/16b10Tz.wav"])
    with caplog.at_level(logging.WARNING):
        assert load_corpus("emodb", tmp_path).num_rows == 536
    assert "sad             63 of 62" in caplog.text
    caplog.clear()
    load_corpus("emodb", emodb)
    assert not caplog.text


@pytest.mark.parametrize("name", CORPORA)
def test_a_missing_or_empty_folder_says_where_to_obtain_the_corpus(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="There is no folder") as error:
        load_corpus(name, tmp_path / "absent")
    assert CORPORA[name].homepage in str(error.value)
    with pytest.raises(CorpusError, match=" 0 of ") as error:
        load_corpus(name, tmp_path, allow_incomplete=True)
    assert CORPORA[name].layout in str(error.value)


@pytest.mark.parametrize("stranger", ["wav/holiday.wav", "wav/03a01Xa.wav", "wav/04a01Wa.wav", "wav/03a09Wa.mp3"])
def test_audio_with_a_foreign_name_is_listed(stranger: str, tmp_path: Path) -> None:
    write_files(tmp_path, [*emodb_names(), stranger])
    with pytest.raises(CorpusError, match="1 audio files are not named") as error:
        load_corpus("emodb", tmp_path, allow_incomplete=True)
    assert stranger in str(error.value)


def test_a_recording_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    write_files(tmp_path, [*emodb_names(), "copy/wav/03a01Wa.wav"])
    with pytest.raises(CorpusError, match="more than once") as error:
        load_corpus("emodb", tmp_path)
    assert "copy/wav/03a01Wa.wav and " in str(error.value)


def test_wrong_options_name_the_right_ones(emodb: Path) -> None:
    with pytest.raises(CorpusError, match="iemocap, shemo, emodb, ravdess, crema_d, tess, savee, meld"):
        load_corpus("berlin", emodb)
    with pytest.raises(CorpusError, match="no emotion joyful; it has angry, bored"):
        load_corpus("emodb", emodb, labels=["angry", "joyful"])
    with pytest.raises(CorpusError, match="4 or 7 classes, not 3"):
        load_corpus("emodb", emodb, classes=3)
    with pytest.raises(CorpusError, match="not both"):
        load_corpus("emodb", emodb, classes=4, labels=["angry", "sad"])
    with pytest.raises(CorpusError, match="expected all"):
        load_corpus("emodb", emodb, subset="improvised")
    for labels in (["angry"], ["angry", "angry"], ["angry", "sad", "sad"]):
        with pytest.raises(CorpusError, match="At least two different labels"):
            load_corpus("emodb", emodb, labels=labels)


# --- ShEMO

SHEMO_GROUPS = {
    "1": "F01 F02 F03 M01 M02 M03 M04 M05 M06",
    "2": "F04 F05 F06 M07 M08 M09 M10 M11 M12",
    "3": "F07 F08 F09 M13 M14 M15 M16 M17 M18",
    "4": "F10 F11 F12 M19 M20 M21 M22 M23 M24",
    "5": "F13 F14 F15 M25 M26 M27 M28 M29 M30",
    "6": "F16 F17 F18 M31 M32 M33 M34 M35 M36",
    "7": "F19 F20 F21 M37 M38 M39 M40 M41",
    "8": "F22 F23 F24 M42 M43 M44 M45 M46",
    "9": "F25 F26 F27 M47 M48 M49 M50 M51",
    "10": "F28 F29 F30 F31 M52 M53 M54 M55 M56",
}
SHEMO_COUNTS = {"A": 1042, "F": 32, "H": 203, "N": 1160, "S": 362, "W": 201}


@pytest.fixture(scope="module")
def shemo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    speakers = [speaker for group in SHEMO_GROUPS.values() for speaker in group.split()]
    assert len(speakers) == 87
    names = []
    for letter, count in SHEMO_COUNTS.items():
        for n in range(count):
            speaker = speakers[n % 87]
            folder = "female" if speaker.startswith("F") else "male"
            names.append(f"{folder}/{speaker}{letter}{n // 87 + 1:02d}.wav")
    return write_files(tmp_path_factory.mktemp("shemo"), names)


def test_shemo_has_3000_utterances_of_87_speakers(shemo: Path) -> None:
    corpus = load_corpus("shemo", shemo, classes=6)
    assert corpus.num_rows == 3000
    assert counts(corpus) == {
        "angry": 1042,
        "fearful": 32,
        "happy": 203,
        "neutral": 1160,
        "sad": 362,
        "surprised": 201,
    }
    assert len(set(corpus["speaker"])) == 87
    assert set(corpus["language"]) == {"fa"}
    genders = {(speaker[0], gender) for speaker, gender in zip(corpus["speaker"], corpus["gender"], strict=True)}
    assert genders == {("F", "female"), ("M", "male")}


def test_shemo_speakers_are_in_the_ten_groups_of_the_paper(shemo: Path) -> None:
    corpus = load_corpus("shemo", shemo)
    groups: dict[str, set[str]] = {}
    for speaker, group, fold in zip(corpus["speaker"], corpus["group"], corpus["fold"], strict=True):
        groups.setdefault(group, set()).add(speaker)
        assert fold == group
    assert groups == {group: set(speakers.split()) for group, speakers in SHEMO_GROUPS.items()}


def test_shemo_has_five_classes_as_the_paper_says_or_four_as_its_code_does(shemo: Path) -> None:
    assert load_corpus("shemo", shemo).num_rows == 1042 + 203 + 1160 + 362 + 201
    four = load_corpus("shemo", shemo, classes=4)
    assert four.features["emotion"].names == ["angry", "happy", "neutral", "sad"]
    assert four.num_rows == 1042 + 203 + 1160 + 362


@pytest.mark.parametrize("name", ["female/F32A01.wav", "male/M57A01.wav", "male/M00A01.wav", "male/X01A01.wav"])
def test_shemo_has_no_other_speakers(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="not named"):
        load_corpus("shemo", write_files(tmp_path, [name]))


# --- IEMOCAP

IMPROVISED = {"neu": 1099, "exc": 663, "sad": 608, "ang": 289, "hap": 284, "fru": 40, "xxx": 30, "oth": 1}
SCRIPTED = {"neu": 609, "exc": 378, "sad": 476, "ang": 814, "hap": 311, "sur": 107, "fea": 40, "dis": 2}


def label_block(name: str, emotion: str) -> str:
    """One utterance as the label files write it: its label, then each rater's vote and scales."""
    return (
        f"[6.2901 - 8.2357]\t{name}\t{emotion}\t[2.5000, 2.5000, 2.5000]\n"
        "C-E2:\tNeutral;\t()\nC-E3:\tNeutral; Anger;\t()\nC-F1:\tNeutral;\t(hello [laughs])\n"
        "A-E3:\tval 3; act 2; dom  2;\t()\nA-F1:\tval 3; act 2; dom  1;\t()\n\n"
    )


def write_iemocap(root: Path) -> Path:
    """Writes the label files and recordings of both kinds of dialogue, dealt over sessions and both actors."""
    blocks: dict[str, list[str]] = {}
    recordings = []
    for kind, emotions in (("impro01", IMPROVISED), ("script01_1b", SCRIPTED)):
        every = [emotion for emotion, count in emotions.items() for _ in range(count)]
        for n, emotion in enumerate(every):
            session = n % 5 + 1
            dialogue = f"Ses0{session}{'FM'[n // 5 % 2]}_{kind}{'' if n < 1000 else 'b'}"
            # The number of a turn has three digits, so each of the two actors has 1,000 of them at most.
            name = f"{dialogue}_{'MF'[n // 10 % 2]}{n // 20:03d}"
            blocks.setdefault(dialogue, []).append(label_block(name, emotion))
            recordings.append(f"Session{session}/sentences/wav/{dialogue}/{name}.wav")
    write_files(root, recordings)
    for dialogue, lines in blocks.items():
        folder = root / f"Session{dialogue[4]}" / "dialog" / "EmoEvaluation"
        (folder / "Categorical").mkdir(parents=True, exist_ok=True)
        header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        (folder / f"{dialogue}.txt").write_text(header + "".join(lines))
        (folder / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07[ what macOS leaves")
        (folder / "Categorical" / f"{dialogue}_e2_cat.txt").write_text(f"{dialogue}_F000 :Neutral; ()\n")
    return root


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_iemocap(tmp_path_factory.mktemp("iemocap") / "IEMOCAP_full_release")


def test_iemocap_has_2943_improvised_utterances_in_the_four_classes_of_the_paper(iemocap: Path) -> None:
    corpus = load_corpus("iemocap", iemocap)
    assert corpus.num_rows == 2943
    assert counts(corpus) == {"angry": 289, "happy": 284 + 663, "neutral": 1099, "sad": 608}
    assert all("_impro" in path for path in corpus["path"])


def test_iemocap_has_5531_utterances_of_both_kinds(iemocap: Path) -> None:
    corpus = load_corpus("iemocap", iemocap, subset="all")
    assert corpus.num_rows == 5531
    assert counts(corpus) == {"angry": 1103, "happy": 595 + 1041, "neutral": 1708, "sad": 1084}


def test_excitement_stays_apart_where_it_is_asked_for(iemocap: Path) -> None:
    corpus = load_corpus("iemocap", iemocap, subset="all", classes=5)
    assert counts(corpus) == {"angry": 1103, "excited": 1041, "happy": 595, "neutral": 1708, "sad": 1084}


def test_iemocap_has_every_emotion_its_raters_had(iemocap: Path) -> None:
    expected = {
        "angry": 1103,
        "disgust": 2,
        "excited": 1041,
        "fearful": 40,
        "frustrated": 40,
        "happy": 595,
        "neutral": 1708,
        "other": 1,
        "sad": 1084,
        "surprised": 107,
        "undecided": 30,
    }
    corpus = load_corpus("iemocap", iemocap, labels=list(expected), subset="all", allow_incomplete=True)
    assert counts(corpus) == expected


def test_the_speaker_is_who_speaks_and_not_who_wears_the_markers(iemocap: Path) -> None:
    corpus = load_corpus("iemocap", iemocap)
    assert sorted(set(corpus["speaker"])) == [f"Ses0{n}{gender}" for n in range(1, 6) for gender in "FM"]
    assert row(corpus, "Ses02F_impro01_M000") | {"path": "", "emotion": ""} == {
        "path": "",
        "emotion": "",
        "speaker": "Ses02M",
        "gender": "male",
        "language": "en",
        "group": "Session2",
        "fold": "2",
    }
    for speaker, group, fold in zip(corpus["speaker"], corpus["group"], corpus["fold"], strict=True):
        assert (group, fold) == (f"Session{speaker[4]}", speaker[4])


def test_iemocap_is_found_in_the_one_folder_that_holds_it(iemocap: Path, tmp_path: Path) -> None:
    assert load_corpus("iemocap", iemocap.parent).num_rows == 2943
    for copy in ("a", "b"):
        (tmp_path / copy / "Session1" / "dialog" / "EmoEvaluation").mkdir(parents=True)
    with pytest.raises(CorpusError, match="several copies"):
        load_corpus("iemocap", tmp_path)


def small_iemocap(root: Path, labels: str) -> Path:
    write_files(root, ["Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.flac"])
    folder = root / "Session1" / "dialog" / "EmoEvaluation"
    folder.mkdir(parents=True)
    (folder / "Ses01F_impro01.txt").write_text(labels)
    return root


def test_labels_without_audio_do_not_count(tmp_path: Path) -> None:
    labels = label_block("Ses01F_impro01_F000", "ang") + label_block("Ses01F_impro01_F001", "ang")
    labels += label_block("Ses01F_impro01_MXX0", "ang")  # a turn of speech on top of another's
    small_iemocap(tmp_path, labels)
    with pytest.raises(CorpusError, match="angry +1 of 289"):
        load_corpus("iemocap", tmp_path)
    assert load_corpus("iemocap", tmp_path, allow_incomplete=True).num_rows == 1


@pytest.mark.parametrize(
    "line",
    [
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tjoy\t[2.5, 2.5, 2.5]",
        "[6.2901 - 8.2357] Ses01F_impro01_F000 ang [2.5, 2.5, 2.5]",
        "[6.2901 - 8.2357]\t../../F000\tang\t[2.5, 2.5, 2.5]",
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tang\t[2.5, 2.5, 2.5]",
    ],
)
def test_label_lines_that_cannot_be_read_are_listed(line: str, tmp_path: Path) -> None:
    small_iemocap(tmp_path, label_block("Ses01F_impro01_F000", "ang") + line + "\n")
    with pytest.raises(CorpusError, match=r"1 label lines.*\n.*Ses01F_impro01.txt, line 8: "):
        load_corpus("iemocap", tmp_path, allow_incomplete=True)


def test_foreign_audio_among_the_sentences_is_listed(tmp_path: Path) -> None:
    small_iemocap(tmp_path, label_block("Ses01F_impro01_F000", "ang"))
    write_files(tmp_path, ["Session1/sentences/wav/Ses01F_impro01/noise.wav"])
    with pytest.raises(CorpusError, match="noise.wav"):
        load_corpus("iemocap", tmp_path, allow_incomplete=True)


# --- RAVDESS


def ravdess_names(channel: str = "01") -> list[str]:
    return [
        f"Actor_{actor:02d}/03-{channel}-{emotion:02d}-{strength:02d}-{text:02d}-{take:02d}-{actor:02d}.wav"
        for actor in range(1, 25)
        for emotion in range(1, 9 if channel == "01" else 7)
        for strength in ((1,) if emotion == 1 else (1, 2))
        for text in (1, 2)
        for take in (1, 2)
    ]


def test_ravdess_is_its_speech_without_its_songs(tmp_path: Path) -> None:
    write_files(tmp_path / "Audio_Speech_Actors_01-24", ravdess_names())
    write_files(tmp_path / "Audio_Song_Actors_01-24", ravdess_names("02"))
    corpus = load_corpus("ravdess", tmp_path)
    assert corpus.num_rows == 1440
    assert counts(corpus)["neutral"] == 96
    assert counts(corpus)["calm"] == 192
    assert len(counts(corpus)) == 8
    assert {int(s) % 2: g for s, g in zip(corpus["speaker"], corpus["gender"], strict=True)} == {
        0: "female",
        1: "male",
    }
    fold_of = set(zip(corpus["speaker"], corpus["fold"], strict=True))
    assert Counter(fold for _, fold in fold_of) == {"1": 4, "2": 4, "3": 4, "4": 4, "5": 4, "6": 4}


def test_a_video_or_a_twenty_fifth_actor_is_no_speech_of_ravdess(tmp_path: Path) -> None:
    write_files(tmp_path, ["01-01-05-01-02-01-18.wav", "03-01-05-01-02-01-25.wav"])
    with pytest.raises(CorpusError, match="2 audio files"):
        load_corpus("ravdess", tmp_path)


@pytest.mark.real
def test_ravdess_labels_and_emobox_folds_are_those_of_the_real_corpus(shared: Path) -> None:
    folder = shared / "data" / "ravdess"
    corpus = load_corpus("ravdess", folder)
    with open(folder / "metadata.csv", newline="") as file:
        expected = {r["file_name"]: (r["speaker"], r["emotion"], r["emobox_test_fold"]) for r in csv.DictReader(file)}
    names = corpus.features["emotion"].names
    found = {Path(r["path"]).name: (r["speaker"], names[r["emotion"]], r["fold"]) for r in corpus}
    assert len(found) == 1440
    assert found == expected


# --- CREMA-D, TESS, SAVEE


def crema_d_names() -> list[str]:
    names = []
    for emotion, count in (("ANG", 1271), ("DIS", 1271), ("FEA", 1271), ("HAP", 1271), ("NEU", 1087), ("SAD", 1271)):
        sentences = [a + b + c for a in "IT" for b in "EW" for c in "OASI"]
        for n in range(count):
            names.append(
                f"AudioWAV/{1001 + n % 91}_{sentences[n // 91]}_{emotion}_{('XX', 'LO', 'MD', 'HI')[n % 4]}.wav"
            )
    return names


def test_crema_d_has_7442_utterances_and_takes_gender_from_its_table(tmp_path: Path) -> None:
    write_files(tmp_path / "CREMA-D", [*crema_d_names(), "AudioMP3/1001_IEO_ANG_HI.mp3"])
    table = "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,Hispanic\n"
    (tmp_path / "CREMA-D" / "VideoDemographics.csv").write_text(table)
    corpus = load_corpus("crema_d", tmp_path)
    assert corpus.num_rows == 7442
    assert len(set(corpus["speaker"])) == 91
    assert counts(corpus) == {
        "angry": 1271,
        "disgust": 1271,
        "fearful": 1271,
        "happy": 1271,
        "neutral": 1087,
        "sad": 1271,
    }
    genders = dict(zip(corpus["speaker"], corpus["gender"], strict=True))
    assert (genders["1001"], genders["1002"], genders["1003"]) == ("male", "female", "")


def test_crema_d_needs_neither_the_table_nor_the_folder_name(tmp_path: Path) -> None:
    write_files(tmp_path, ["1040_ITH_SAD_X.wav", "1001_IEO_ANG_HI.wav"])
    corpus = load_corpus("crema_d", tmp_path, allow_incomplete=True)
    assert row(corpus, "1040_ITH_SAD_X")["emotion"] == "sad"
    assert set(corpus["gender"]) == {""}


def test_tess_has_2800_utterances_of_two_speakers(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrst"
    words = [a + b for a in letters for b in letters[:10]]
    emotions = ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")
    names = [f"{s}_{e}/{s}_{w}_{e}.wav" for s in ("OAF", "YAF") for e in emotions for w in words]
    # One file of the corpus is published under a short name.
    names[names.index("OAF_neutral/OAF_aa_neutral.wav")] = "OAF_neutral/OA_aa_neutral.wav"
    corpus = load_corpus("tess", write_files(tmp_path, names))
    assert corpus.num_rows == 2800
    assert counts(corpus) == dict.fromkeys(
        ("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"), 400
    )
    assert Counter(corpus["speaker"]) == {"OAF": 1400, "YAF": 1400}
    assert set(corpus["gender"]) == {"female"}


@pytest.mark.parametrize("name_of", ["AudioData/{speaker}/{utterance}.wav", "ALL/{speaker}_{utterance}.wav"])
def test_savee_is_read_in_both_layouts(name_of: str, tmp_path: Path) -> None:
    names = [
        name_of.format(speaker=speaker, utterance=f"{emotion}{n:02d}")
        for speaker in ("DC", "JE", "JK", "KL")
        for emotion in ("a", "d", "f", "h", "n", "sa", "su")
        for n in range(1, 31 if emotion == "n" else 16)
    ]
    corpus = load_corpus("savee", write_files(tmp_path, names))
    assert corpus.num_rows == 480
    assert counts(corpus) == {
        "angry": 60,
        "disgust": 60,
        "fearful": 60,
        "happy": 60,
        "neutral": 120,
        "sad": 60,
        "surprised": 60,
    }
    assert Counter(corpus["speaker"]) == {"DC": 120, "JE": 120, "JK": 120, "KL": 120}


def test_savee_without_a_speaker_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="not named"):
        load_corpus("savee", write_files(tmp_path, ["somewhere/a01.wav"]))


# --- MELD

MELD_FOLDERS = {"train": "train/train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
MELD_ROWS = {
    "train": [("Monica", "anger"), ("Ross", "joy"), ("The Waiter", "neutral")],
    "dev": [("Monica", "fear"), ("Chandler", "surprise")],
    "test": [("Ross", "sadness"), ("Phoebe", "disgust")],
}


def write_meld(folder: Path, ending: str) -> Path:
    names = []
    for part, rows in MELD_ROWS.items():
        table = folder / ("train" if part == "train" else "") / f"{part}_sent_emo.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        with open(table, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["Sr No.", "Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"])
            for n, (speaker, emotion) in enumerate(rows):
                writer.writerow([n + 1, "Oh, you\x92re here,\nnow", speaker, emotion, 0, n])
        names += [f"{MELD_FOLDERS[part]}/dia0_utt{n}{ending}" for n in range(len(rows))]
    return write_files(folder, names)


def test_meld_has_its_speakers_and_parts(tmp_path: Path) -> None:
    write_meld(tmp_path / "MELD.Raw", ".wav")
    write_files(tmp_path / "MELD.Raw", ["output_repeated_splits_test/final_videos_testdia0_utt0.wav"])
    corpus = load_corpus("meld", tmp_path, allow_incomplete=True)
    names = corpus.features["emotion"].names
    assert sorted((r["group"], r["speaker"], names[r["emotion"]], r["gender"]) for r in corpus) == [
        ("dev", "Chandler", "surprised", "male"),
        ("dev", "Monica", "fearful", "female"),
        ("test", "Phoebe", "disgust", "female"),
        ("test", "Ross", "sad", "male"),
        ("train", "Monica", "angry", "female"),
        ("train", "Ross", "happy", "male"),
        ("train", "The Waiter", "neutral", ""),
    ]
    assert all(MELD_FOLDERS[r["group"]] in r["path"] for r in corpus)
    with pytest.raises(CorpusError, match="neutral +1 of 6434"):
        load_corpus("meld", tmp_path)


def test_meld_as_video_says_how_to_convert_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_meld(tmp_path, ".mp4")
    with pytest.raises(CorpusError, match="convert each of the 7 .*ffmpeg -i dia0_utt0.mp4"):
        load_corpus("meld", tmp_path, allow_incomplete=True)
    write_files(tmp_path, ["train/train_splits/dia0_utt0.wav", "dev_splits_complete/dia0_utt0.flac"])
    with caplog.at_level(logging.WARNING):
        assert load_corpus("meld", tmp_path, allow_incomplete=True).num_rows == 2
    assert "5 utterances" in caplog.text


def test_a_changed_meld_table_is_refused(tmp_path: Path) -> None:
    write_meld(tmp_path, ".wav")
    table = tmp_path / "dev_sent_emo.csv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("fear", "terror"), encoding="utf-8")
    with pytest.raises(CorpusError, match="'terror'"):
        load_corpus("meld", tmp_path, allow_incomplete=True)
    table.write_text(text.replace("Speaker", "Who"), encoding="utf-8")
    with pytest.raises(CorpusError, match="lacks Speaker"):
        load_corpus("meld", tmp_path, allow_incomplete=True)


# --- all of them

PUBLISHED_TOTALS = {
    "iemocap": 10039,
    "shemo": 3000,
    "emodb": 535,
    "ravdess": 1440,
    "crema_d": 7442,
    "tess": 2800,
    "savee": 480,
    "meld": 13706,
}


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_knows_its_facts(name: str) -> None:
    spec = CORPORA[name]
    assert spec.name == name
    assert sum(spec.counts["all"].values()) == PUBLISHED_TOTALS[name]
    assert spec.homepage.startswith("http")
    assert spec.citation.startswith("@") and spec.citation.count("{") == spec.citation.count("}")
    assert spec.license and spec.layout and len(spec.language) == 2
    first = next(iter(spec.counts.values()))
    assert set(spec.label_sets[0]) <= set(first)


def test_every_entry_of_the_bibliography_is_cited() -> None:
    text = resources.files("whisper_ser.data.corpora").joinpath("citations.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)
    assert sorted(keys) == sorted([*(spec.citation_key for spec in CORPORA.values()), emobox.CITATION_KEY])
    for key in keys:
        assert re.match(rf"@\w+\{{{key},\n", citation(key)) and citation(key).endswith("\n}")


@pytest.mark.parametrize("name", CORPORA)
def test_the_page_of_corpora_says_what_the_loaders_know(name: str) -> None:
    spec = CORPORA[name]
    page = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert f"| {spec.homepage} | {spec.license} |" in row
    if len(spec.counts) == 1:
        assert f"| {PUBLISHED_TOTALS[name]:,}" in row
    start = page.index(f"- `{name}`: ")
    entry = " ".join(page[start : page.index("\n- ", start + 1)].split())
    classes = entry[entry.index("Classes: ") :]
    assert all(f"{len(labels)} (" in classes or f"{len(labels)}, as TESS" in classes for labels in spec.label_sets)
    if "as TESS" in classes:
        assert spec.label_sets == CORPORA["tess"].label_sets
    else:
        assert f"({', '.join(spec.label_sets[0])}" in classes
