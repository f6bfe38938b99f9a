"""The demo corpus: the same bytes every time, balanced, learnable in principle, and never half there."""

import csv
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from whisper_ser.demo import corpus as demo
from whisper_ser.demo.corpus import build_demo_corpus
from whisper_ser.errors import CorpusError
from whisper_ser.io import write_checksums

EMOTIONS = {"angry", "happy", "neutral", "sad"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    return build_demo_corpus(tmp_path_factory.mktemp("built") / "demo")


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "demo"))


@pytest.fixture
def builds(built: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces the synthesis by a copy of its result, and lists where it was called for."""
    calls: list[Path] = []

    def copy_built(folder: Path) -> None:
        calls.append(folder)
        shutil.copytree(built, folder)

    monkeypatch.setattr(demo, "_write_corpus_in_child_process", copy_built)
    return calls


def test_two_builds_have_the_same_bytes(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    again = build_demo_corpus(Path("elsewhere"))
    assert again == tmp_path.resolve() / "elsewhere"
    assert contents(again) == contents(built)


def test_every_speaker_says_six_sentences_in_each_emotion(built: Path) -> None:
    table = rows(built)
    assert len(table) == 240
    cells = Counter((row["speaker"], row["emotion"]) for row in table)
    assert set(cells.values()) == {6}
    assert {emotion for _, emotion in cells} == EMOTIONS
    assert len({speaker for speaker, _ in cells}) == 10
    assert Counter(row["gender"] for row in table) == {"female": 120, "male": 120}


def test_the_table_names_every_audio_file_once(built: Path) -> None:
    names = [row["file_name"] for row in rows(built)]
    assert len(set(names)) == len(names)
    assert set(names) | {"metadata.csv", "corpus.json", "checksums.json"} == set(contents(built))


def test_files_are_16_khz_mono_16_bit_flac_of_a_few_seconds(built: Path) -> None:
    for row in rows(built):
        info = sf.info(built / row["file_name"])
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "FLAC", "PCM_16")
        assert 1.0 < info.duration < 4.0


def test_each_speaker_is_louder_and_faster_when_angry_than_when_sad(built: Path) -> None:
    seconds: dict[tuple[str, str], list[float]] = {}
    power: dict[tuple[str, str], list[float]] = {}
    for row in rows(built):
        samples, rate = sf.read(built / row["file_name"])
        cell = (row["speaker"], row["emotion"])
        seconds.setdefault(cell, []).append(len(samples) / rate)
        power.setdefault(cell, []).append(float(np.mean(samples**2)))
    for speaker in {speaker for speaker, _ in seconds}:
        assert np.mean(seconds[speaker, "angry"]) < np.mean(seconds[speaker, "sad"])
        assert np.mean(power[speaker, "angry"]) > 2 * np.mean(power[speaker, "sad"])


def test_no_two_utterances_sound_the_same(built: Path) -> None:
    audio = [content for name, content in contents(built).items() if name.endswith(".flac")]
    assert len(set(audio)) == 240


def test_a_complete_corpus_is_reused(copy: Path, builds: list[Path]) -> None:
    (copy / "notes.txt").write_text("mine")
    assert build_demo_corpus(copy) == copy.resolve()
    assert builds == []


def write_older_recipe(folder: Path) -> None:
    (folder / "corpus.json").write_text('{"recipe_version": 0}')
    write_checksums(folder)


DAMAGE = {
    "audio file gone": lambda folder: (folder / "f1_sad_3.flac").unlink(),
    "audio file cut short": lambda folder: (folder / "m2_happy_1.flac").write_bytes(b"fLaC"),
    "table edited": lambda folder: (folder / "metadata.csv").write_text("file_name,emotion,speaker,gender\n"),
    "recipe gone": lambda folder: (folder / "corpus.json").unlink(),
    "recipe cut short": lambda folder: (folder / "corpus.json").write_text('{"recipe_version": 1, "esp'),
    "checksums gone": lambda folder: (folder / "checksums.json").unlink(),
    "checksums cut short": lambda folder: (folder / "checksums.json").write_text('{"f1_sad_3.flac": "'),
    "other recipe": write_older_recipe,
    "as version 0.1.0 wrote it": lambda folder: (folder / "corpus.json").write_text(
        '{"recipe_version": 1, "sha256": {}}'
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_corpus_is_rebuilt(damage, built: Path, copy: Path, builds: list[Path]) -> None:
    damage(copy)
    assert build_demo_corpus(copy) == copy.resolve()
    assert len(builds) == 1
    assert contents(copy) == contents(built)


def test_files_of_an_older_recipe_are_replaced(built: Path, copy: Path, builds: list[Path]) -> None:
    (copy / "f9_bored_1.flac").write_bytes(b"old")
    write_older_recipe(copy)
    build_demo_corpus(copy)
    assert contents(copy) == contents(built)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CorpusError, match=r"thesis\.tex.*new or empty folder"):
        build_demo_corpus(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(CorpusError, match="is a file"):
        build_demo_corpus(tmp_path / "demo")


def test_without_espeak_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)  # Python's own sign for "not to be found"
    with pytest.raises(CorpusError) as caught:
        build_demo_corpus(tmp_path / "demo")
    assert 'pip install "whisper-ser[demo]"' in str(caught.value)
    assert not (tmp_path / "demo").exists()


def test_a_failed_synthesis_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_done(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[-1])
        folder.mkdir()
        (folder / "f1_angry_1.flac").write_bytes(b"half")
        return subprocess.CompletedProcess(command, returncode=3)

    monkeypatch.setattr(demo, "_require_espeak", lambda: None)
    monkeypatch.setattr(subprocess, "run", half_done)
    with pytest.raises(CorpusError, match="exit code 3"):
        build_demo_corpus(tmp_path / "demo")
    assert {path.name for path in tmp_path.iterdir()} <= {".demo.lock"}
