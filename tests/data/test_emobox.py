"""EmoBox manifests, written as EmoBox writes them."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_corpora import row, write_files

from whisper_ser.data.corpora.emobox import load_emobox
from whisper_ser.errors import CorpusError


def line(name: str, key: str, wav: str, emotion: str, **more: Any) -> dict[str, Any]:
    return {
        "key": f"{name}-{key}",
        "dataset": name,
        "wav": f"downloads/{name}/{wav}",
        "type": "raw",
        "sample_rate": 16000,
        "num_frame": 160.0,
        "task": "category",
        "length": 0.01,
        "emo": emotion,
        "channel": 1,
        **more,
    }


def write_list(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))


def write_manifest(
    root: Path, name: str, folds: list[list[dict[str, Any]]], label_map: dict[str, str], audio: bool = True
) -> Path:
    """Writes `<root>/data/<name>` with a fold that tests each of the lists, and the audio below `<root>/downloads`."""
    manifest = root / "data" / name
    for k, test in enumerate(folds, 1):
        train = [entry for other in folds if other is not test for entry in other]
        write_list(manifest / f"fold_{k}" / f"{name}_test_fold_{k}.jsonl", test)
        write_list(manifest / f"fold_{k}" / f"{name}_train_fold_{k}.jsonl", train)
    (manifest / "label_map.json").write_text(json.dumps(label_map))
    if audio:
        write_files(root, [entry["wav"] for fold in folds for entry in fold])
    return manifest


IEMOCAP_MAP = {"neu": "Neutral", "hap": "Happy", "ang": "Angry", "sad": "Sad", "exc": "Happy"}


def iemocap_folds() -> list[list[dict[str, Any]]]:
    return [
        [
            line(
                "iemocap",
                f"Ses0{n}F_impro01_{speaker}000",
                f"Session{n}/sentences/wav/Ses0{n}F_impro01/Ses0{n}F_impro01_{speaker}000.wav",
                emotion,
            )
            for speaker, emotion in (("F", "hap" if n % 2 else "exc"), ("M", "neu"))
        ]
        for n in range(1, 6)
    ]


def test_an_utterance_has_the_fold_that_tests_it(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, "iemocap", iemocap_folds(), IEMOCAP_MAP)
    corpus = load_emobox(manifest)
    assert corpus.num_rows == 10
    assert corpus.features["emotion"].names == ["Happy", "Neutral"]
    assert row(corpus, "Ses02F_impro01_M000") == {
        "path": str(tmp_path / "downloads/iemocap/Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_M000.wav"),
        "emotion": "Neutral",
        "speaker": "Ses02M",
        "gender": "",
        "language": "en",
        "group": "",
        "fold": "2",
    }
    assert row(corpus, "Ses02F_impro01_F000")["emotion"] == "Happy"
    assert Counter(corpus["fold"]) == {"1": 2, "2": 2, "3": 2, "4": 2, "5": 2}
    assert "ma2024emobox" in corpus.info.citation


@pytest.mark.parametrize(
    "layout",
    ["downloads/iemocap/", "iemocap/", ""],
)
def test_the_audio_may_lie_elsewhere(layout: str, tmp_path: Path) -> None:
    folds = iemocap_folds()
    manifest = write_manifest(tmp_path, "iemocap", folds, IEMOCAP_MAP, audio=False)
    names = [entry["wav"].replace("downloads/iemocap/", layout) for fold in folds for entry in fold]
    write_files(tmp_path / "elsewhere", [name.replace(".wav", ".flac") for name in names])
    corpus = load_emobox(manifest, tmp_path / "elsewhere")
    assert corpus.num_rows == 10
    assert all(path.endswith(".flac") for path in corpus["path"])


def test_missing_audio_is_listed_unless_it_is_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = write_manifest(tmp_path, "iemocap", iemocap_folds(), IEMOCAP_MAP)
    next((tmp_path / "downloads").rglob("Ses03F_impro01_M000.wav")).unlink()
    with pytest.raises(CorpusError, match=r"1 of the 10 audio files[\s\S]*Ses03F_impro01_M000.wav"):
        load_emobox(manifest)
    with caplog.at_level(logging.WARNING):
        assert load_emobox(manifest, allow_incomplete=True).num_rows == 9
    assert "1 of the 10" in caplog.text
    with pytest.raises(CorpusError, match="10 of the 10"):
        load_emobox(manifest, tmp_path / "nowhere", allow_incomplete=True)


def test_labels_choose_among_those_of_the_map(tmp_path: Path) -> None:
    folds = iemocap_folds()
    folds[0].append(line("iemocap", "Ses01F_impro02_F000", "x/Ses01F_impro02_F000.wav", "ang"))
    manifest = write_manifest(tmp_path, "iemocap", folds, IEMOCAP_MAP)
    corpus = load_emobox(manifest, labels=["Neutral", "Happy"])
    assert corpus.features["emotion"].names == ["Neutral", "Happy"]
    assert corpus.num_rows == 10
    with pytest.raises(CorpusError, match="no label Calm"):
        load_emobox(manifest, labels=["Neutral", "Calm"])


@pytest.mark.parametrize(
    ("name", "key", "speaker", "language"),
    [
        ("emodb", "15a02Ta", "15", "de"),
        ("ravdess", "03-01-08-01-02-01-21", "21", "en"),
        ("iemocap", "Ses05M_script01_1b_F003", "Ses05F", "en"),
        ("shemo", "M21W04", "M21", "fa"),
        ("cremad", "1008-ITS-DIS-XX", "1008", "en"),
        ("tess", "OAF-check-happy", "OAF", "en"),
        ("tess", "OA-bite-neutral", "OAF", "en"),
        ("tess", "YAF-sail-happy", "YAF", "en"),
        ("savee", "JE-su10", "JE", "en"),
        ("casia", "liuchanhg-angry-201", "", "zh"),
        ("esd", "0001_000351", "", ""),
    ],
)
def test_the_speaker_is_in_the_key_of_some_corpora(
    name: str, key: str, speaker: str, language: str, tmp_path: Path
) -> None:
    folds = [[line(name, key, "a.wav", "sad")], [line(name, "other", "b.wav", "happy")]]
    manifest = write_manifest(tmp_path, name, folds, {"sad": "Sad", "happy": "Happy"})
    found = row(load_emobox(manifest), "a")
    assert (found["speaker"], found["language"]) == (speaker, language)


def fixed_parts(name: str) -> dict[str, list[dict[str, Any]]]:
    return {
        "train": [line(name, "dia0_utt0-train", "train/train_splits/dia0_utt0.mp4", "joy")],
        "valid": [line(name, "dia0_utt0-dev", "dev_splits_complete/dia0_utt0.mp4", "anger")],
        "test": [line(name, "dia0_utt0-test", "output_repeated_splits_test/dia0_utt0.mp4", "joy")],
    }


def write_fixed(root: Path, name: str, inside: str, ending: str) -> Path:
    manifest = root / "data" / name
    for part, entries in fixed_parts(name).items():
        write_list(manifest / inside / f"{name}_{part}{ending}.jsonl", entries)
        write_files(root, [entry["wav"].replace(".mp4", ".wav") for entry in entries])
    (manifest / "label_map.json").write_text(json.dumps({"joy": "Happy", "anger": "Angry"}))
    return manifest


@pytest.mark.parametrize(("inside", "ending"), [("fold_1", "_fold_1"), ("", "")])
def test_a_single_split_gives_its_parts(inside: str, ending: str, tmp_path: Path) -> None:
    manifest = write_fixed(tmp_path, "meld", inside, ending)
    # MER2023 repeats its test list like this.
    write_list(manifest / inside / f"meld_test1{ending}.jsonl", [{"key": "meld-x", "audio": "x", "label": "joy"}])
    corpus = load_emobox(manifest)
    assert sorted((r["group"], Path(r["path"]).parent.name, r["fold"]) for r in corpus) == [
        ("test", "output_repeated_splits_test", ""),
        ("train", "train_splits", ""),
        ("valid", "dev_splits_complete", ""),
    ]
    assert set(corpus["speaker"]) == {""}


def test_the_speakers_of_meld_are_in_its_transcripts(tmp_path: Path) -> None:
    manifest = write_fixed(tmp_path, "meld", "fold_1", "_fold_1")
    (manifest / "data.seg.wrd.stm").write_text(
        "meld-dia0_utt0-train 3 The-Waiter 0 1.6 <id=meld-dia0_utt0-train,spk=The-Waiter,emotion=joy> joy\n"
        "meld-dia0_utt0-test 3 Ross 0 1.6 <id=meld-dia0_utt0-test,spk=Ross,emotion=joy> joy\n"
    )
    corpus = load_emobox(manifest)
    assert {r["group"]: r["speaker"] for r in corpus} == {"train": "The-Waiter", "test": "Ross", "valid": ""}


def test_an_utterance_that_no_fold_tests_is_an_error(tmp_path: Path) -> None:
    folds = iemocap_folds()
    manifest = write_manifest(tmp_path, "iemocap", folds, IEMOCAP_MAP)
    write_list(manifest / "fold_3" / "iemocap_test_fold_3.jsonl", folds[2][:1])
    with pytest.raises(CorpusError, match="iemocap-Ses03F_impro01_M000 is in no test list"):
        load_emobox(manifest)


def test_an_utterance_that_two_folds_test_is_an_error(tmp_path: Path) -> None:
    folds = iemocap_folds()
    manifest = write_manifest(tmp_path, "iemocap", folds, IEMOCAP_MAP)
    write_list(manifest / "fold_1" / "iemocap_test_fold_1.jsonl", folds[0] + folds[1][:1])
    with pytest.raises(CorpusError, match="Ses02F_impro01_F000 is tested in folds 1, 2"):
        load_emobox(manifest)


def test_an_utterance_that_a_fold_trains_and_tests_is_an_error(tmp_path: Path) -> None:
    folds = iemocap_folds()
    manifest = write_manifest(tmp_path, "iemocap", folds, IEMOCAP_MAP)
    write_list(manifest / "fold_1" / "iemocap_train_fold_1.jsonl", [entry for fold in folds for entry in fold])
    with pytest.raises(CorpusError, match="Ses01F_impro01_F000 is in train and test of fold 1"):
        load_emobox(manifest)


def test_an_utterance_that_changes_its_emotion_between_folds_is_an_error(tmp_path: Path) -> None:
    folds = iemocap_folds()
    manifest = write_manifest(tmp_path, "iemocap", folds, IEMOCAP_MAP)
    changed = [{**folds[0][0], "emo": "sad"}, folds[0][1]]
    write_list(manifest / "fold_1" / "iemocap_test_fold_1.jsonl", changed)
    with pytest.raises(CorpusError, match="iemocap-Ses01F_impro01_F000 differs between fold_1/"):
        load_emobox(manifest)


def test_stretches_of_a_longer_file_must_be_cut(tmp_path: Path) -> None:
    folds = [
        [line("pavoque", f"m{n}-angry", "pavoque-angry.flac", emotion, start_time=2.0 * n, end_time=2.0 * n + 1)]
        for n, emotion in enumerate(("angry", "sad"))
    ]
    manifest = write_manifest(tmp_path, "pavoque", folds, {"angry": "Angry", "sad": "Sad"}, audio=False)
    write_files(tmp_path, ["downloads/pavoque/pavoque-angry.flac"])
    with pytest.raises(CorpusError, match=r"Save the segments[\s\S]*pavoque-m0-angry.wav"):
        load_emobox(manifest)
    write_files(tmp_path, [f"downloads/pavoque/pavoque-m{n}-angry.wav" for n in range(2)])
    assert len(set(load_emobox(manifest)["path"])) == 2


def test_a_folder_that_is_no_manifest_is_told_the_layout(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="Expected a folder <EmoBox>/data/<set>"):
        load_emobox(tmp_path)
    (tmp_path / "label_map.json").write_text("[1]")
    with pytest.raises(CorpusError, match="not a JSON object"):
        load_emobox(tmp_path)
    (tmp_path / "label_map.json").write_text("{}")
    with pytest.raises(CorpusError, match="no utterances in"):
        load_emobox(tmp_path)


def test_lines_and_emotions_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, "iemocap", iemocap_folds(), {"neu": "Neutral"})
    with pytest.raises(CorpusError, match="no label for exc, hap"):
        load_emobox(manifest)
    with open(manifest / "fold_1" / "iemocap_test_fold_1.jsonl", "a") as file:
        file.write('{"key": "iemocap-x"}\n')
    with pytest.raises(CorpusError, match=r"iemocap_test_fold_1.jsonl, line 3 is not .*key, wav, emo"):
        load_emobox(manifest)
