"""The audit finds speakers and audio that two parts of a fold share, and finds nothing where nothing is shared."""

import csv
import json
import pickle
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from conftest import RATE, speechlike

from whisper_ser.data.audio_index import FINGERPRINT_BINS, _sketch, index_audio
from whisper_ser.data.corpora.dataset import Utterance, build_dataset
from whisper_ser.data.corpora.table import load_table
from whisper_ser.data.leakage import LeakError, audit, check
from whisper_ser.data.splits import Fold, Split, folds
from whisper_ser.errors import ProtocolError

LABELS = ("calm", "excited")
# Container, subtype, rate in hertz, compression (1.0 is the strongest libsndfile knows).
CODECS = {
    "mp3": ("MP3", "MPEG_LAYER_III", 16000, 0.5),
    "mp3 at 8 kHz": ("MP3", "MPEG_LAYER_III", 8000, 0.9),
    "mp3 at 44.1 kHz": ("MP3", "MPEG_LAYER_III", 44100, 0.7),
    "ogg": ("OGG", "VORBIS", 16000, 0.6),
    "ogg at 8 kHz": ("OGG", "VORBIS", 8000, 1.0),
    "opus": ("OGG", "OPUS", 16000, 0.9),
    "gsm": ("WAV", "GSM610", 8000, None),
    "mu-law": ("WAV", "ULAW", 8000, None),
}


def recode(source: Path, target: Path, codec: str, gain: float = 0.5) -> Path:
    """Writes the same recording through a codec, resampled and quieter."""
    samples, rate = soundfile.read(source)
    container, subtype, new_rate, compression = CODECS[codec]
    level = {} if compression is None else {"compression_level": compression}
    resampled = gain * soxr.resample(samples, rate, new_rate)
    soundfile.write(target, resampled, new_rate, format=container, subtype=subtype, **level)
    return target


def part(files, speakers=None, labels=LABELS, name="one"):
    speakers = [str(n) for n in range(len(files))] if speakers is None else speakers
    return build_dataset(
        [Utterance(str(f), labels[n % 2], s) for n, (f, s) in enumerate(zip(files, speakers, strict=True))],
        labels,
        name,
    )


@pytest.fixture
def recordings(tmp_path) -> list[Path]:
    """Utterances whose voices differ: two for each part."""
    files = [tmp_path / f"{n}.wav" for n in range(6)]
    for n, file in enumerate(files):
        soundfile.write(file, speechlike(1.0 + 0.1 * (n % 3), 90 + 37 * n, seed=n), RATE)
    return files


def cut(recordings, train=(), validation=(), test=()) -> list[Fold]:
    """Returns a fold of two clean utterances a part, plus files; every speaker is another."""
    parts = [[*recordings[:2], *train], [*recordings[2:4], *validation], [*recordings[4:], *test]]
    speakers = [[f"{n}-{m}" for m in range(len(files))] for n, files in enumerate(parts)]
    return [Fold("1", Split(*map(part, parts, speakers)))]


def test_clean_parts_have_no_leak(recordings):
    result = audit(cut(recordings))
    assert result.leaks == [] and result.notes == [] and result.utterances == 6 and result.without_speaker == 0
    assert check(result, set()) == []


@pytest.mark.parametrize(
    ("shared", "expected"),
    [((0, 2), "train/test"), ((0, 1), "train/validation"), ((1, 2), "validation/test")],
)
def test_a_speaker_in_two_parts_is_found(recordings, shared, expected):
    speakers = [[f"{n}a", f"{n}b"] for n in range(3)]
    for n in shared:
        speakers[n][1] = "01"
    fold = Fold("7", Split(*(part(recordings[2 * n : 2 * n + 2], speakers[n]) for n in range(3))))
    (leak,) = audit([fold]).leaks
    assert (leak.kind, leak.fold, leak.parts, leak.found) == ("speakers", "7", expected, ["01"])
    with pytest.raises(LeakError, match=f"fold 7: {expected.replace('/', ' and ')} share speakers 01"):
        check(audit([fold]), {"audio", "labels"})


def test_speakers_of_two_corpora_may_have_one_name(recordings):
    train, test = part(recordings[:2], ["1", "2"], name="one"), part(recordings[4:], ["1", "2"], name="other")
    assert audit([Fold("x", Split(train, train.select([]), test))]).leaks == []


def test_unknown_speakers_are_noted_and_not_taken_for_one(recordings):
    result = audit([Fold("x", Split(part(recordings[:2], ["", ""]), part([]), part(recordings[4:], ["", "b"])))])
    assert result.leaks == []
    assert result.without_speaker == 3
    assert result.notes == ["3 of 4 utterances have no speaker: parts may share speakers unseen."]


def found(result) -> list[tuple[str, list[str]]]:
    assert {leak.kind for leak in result.leaks} <= {"audio"}
    return [(leak.parts, leak.found) for leak in result.leaks]


def test_the_same_file_in_two_parts_is_found(recordings):
    assert found(audit(cut(recordings, validation=[recordings[5]]))) == [
        ("validation/test", [f"{recordings[5]} itself"])
    ]


def test_a_file_copied_under_another_name_is_found(recordings, tmp_path):
    copy = shutil.copy(recordings[0], tmp_path / "zz.wav")
    assert found(audit(cut(recordings, test=[copy]))) == [
        ("train/test", [f"{recordings[0]} as {copy} (identical bytes)"])
    ]


@pytest.mark.parametrize("channels", [1, 2])
def test_the_same_samples_in_another_container_are_found(recordings, tmp_path, channels):
    samples, _ = soundfile.read(recordings[4], dtype="int16")
    soundfile.write(tmp_path / "zz.flac", np.stack([samples] * channels, 1), RATE)
    result = audit(cut(recordings, train=[tmp_path / "zz.flac"]))
    assert found(result) == [("train/test", [f"{recordings[4]} as {tmp_path / 'zz.flac'} (identical samples)"])]


@pytest.mark.parametrize("codec", CODECS)
def test_a_copy_encoded_again_is_found(recordings, tmp_path, codec):
    copy = recode(recordings[1], tmp_path / "zz.audio", codec)
    ((parts, (pair,)),) = found(audit(cut(recordings, test=[copy])))
    assert parts == "train/test"
    assert pair.startswith(f"{recordings[1]} as {copy} (the same recording, correlation ")


@pytest.mark.parametrize("change", ["silence before", "silence behind", "upside down", "noise"])
def test_a_copy_changed_otherwise_is_found(recordings, tmp_path, change):
    samples, _ = soundfile.read(recordings[1])
    changed = {
        "silence before": np.pad(samples, (RATE // 5, 0)),
        "silence behind": np.pad(samples, (0, RATE // 5)),
        "upside down": -samples,
        "noise": samples + 0.1 * samples.std() * np.random.default_rng(0).standard_normal(len(samples)),
    }[change]
    soundfile.write(tmp_path / "zz.wav", changed, RATE)
    assert len(found(audit(cut(recordings, test=[tmp_path / "zz.wav"])))) == 1


def test_steady_voices_of_like_pitch_are_not_taken_for_copies(corpus):
    # Tones of 260 Hz and of 266 Hz have similar fingerprints; their waveforms differ.
    assert audit(folds(load_table(corpus), "loso")).leaks == []


def test_copies_in_one_part_are_no_leak(recordings, tmp_path):
    copies = [recode(recordings[0], tmp_path / "zz.mp3", "mp3"), Path(shutil.copy(recordings[1], tmp_path / "yy.wav"))]
    assert audit(cut(recordings, train=copies)).leaks == []


def test_copies_are_found_across_corpora(recordings, tmp_path):
    copy = recode(recordings[0], tmp_path / "zz.ogg", "ogg")
    train, test = part(recordings[:2], name="one"), part([copy, recordings[4]], ["a", "b"], name="other")
    ((parts, (pair,)),) = found(audit([Fold("one to other", Split(train, train.select([]), test))]))
    assert parts == "train/test" and str(copy) in pair


def test_many_utterances_are_compared_in_blocks(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("whisper_ser.data.duplicates.TILE", 2)
    copies = [recode(file, tmp_path / f"zz{n}.mp3", "mp3 at 8 kHz") for n, file in enumerate(recordings[:2])]
    ((_, pairs),) = found(audit(cut(recordings, test=copies)))
    assert len(pairs) == 2


def test_the_index_keeps_little_of_each_file_and_the_audit_reads_no_file_without_a_reason(recordings, monkeypatch):
    index = index_audio(list(map(str, recordings)), progress=False)
    assert all(len(pickle.dumps(record)) < 800 for record in index.values())
    read = []
    monkeypatch.setattr("whisper_ser.data.duplicates.read_audio", lambda path, rate: read.append(path))
    assert audit(cut(recordings), index).leaks == [] and not read


@pytest.mark.parametrize("similarity", [-0.4, 0.0, 0.3, 0.7])
def test_sketches_tell_how_similar_fingerprints_are(similarity):
    one, other = np.linalg.qr(np.random.default_rng(0).standard_normal((FINGERPRINT_BINS, 2)))[0].T
    pair = [one, similarity * one + np.sqrt(1 - similarity**2) * other]
    bits = np.unpackbits([np.frombuffer(_sketch(vector), np.uint8) for vector in pair], axis=1)
    assert bits.shape[1] == FINGERPRINT_BINS
    assert np.cos(np.pi * (bits[0] != bits[1]).mean()) == pytest.approx(similarity, abs=0.06)


def test_labels_that_cannot_be_learnt_are_a_leak_and_others_a_note(recordings):
    labels = ("calm", "excited", "sad")
    train, test = part(recordings[:2], labels=labels), part(recordings[4:], ["a", "b"], labels=("calm", "afraid"))
    result = audit([Fold("1", Split(train, train.select([]), test))])
    (leak,) = result.leaks
    assert (leak.kind, leak.parts, leak.found) == ("labels", "train", ["afraid", "sad"])
    assert result.notes == ["Fold 1 has no excited, sad in its test part."]
    with pytest.raises(LeakError, match="fold 1: train lacks the label afraid, sad"):
        check(result, set())


def test_what_is_allowed_is_said_and_nothing_else_passes(recordings):
    speakers = [["a", "b"], ["c", "d"], ["a", "b"]]
    split = Split(*(part(recordings[2 * n : 2 * n + 2], speakers[n]) for n in range(3)))
    other = Split(split.train, split.validation, part(recordings[3:5], ["e", "f"]))
    result = audit([Fold("1", split), Fold("2", other)])
    assert [leak.kind for leak in result.leaks] == ["speakers", "audio"]
    with pytest.raises(LeakError, match=r"\(audio\).*\n  fold 2: validation and test share audio") as error:
        check(result, {"speakers"})
    assert isinstance(error.value, ProtocolError) and "share speakers" not in str(error.value)
    lines = check(result, {"speakers", "audio"})
    assert (
        lines[0] == "Leak allowed: speakers (train/test) in 1 of 2 folds, fold 1: train and test share speakers a, b"
    )
    assert lines[1].startswith("Leak allowed: audio (validation/test) in 1 of 2 folds, fold 2")
    with pytest.raises(ProtocolError, match="no kind of leak speaker; expected speakers, audio, labels"):
        check(result, {"speaker"})


def test_a_result_is_json(recordings):
    result = audit(cut(recordings, test=[recordings[0]]))
    stored = json.loads(json.dumps(asdict(result)))
    assert stored["folds"] == ["1"] and stored["utterances"] == 6
    assert stored["leaks"] == [
        {"kind": "audio", "fold": "1", "parts": "train/test", "found": [f"{recordings[0]} itself"]}
    ]


@pytest.mark.real
def test_real_speech_shares_nothing_until_one_copy_is_slipped_in(shared, tmp_path):
    corpus = load_table(shared / "data" / "emodb4")
    result = audit(folds(corpus, "loso", validation_fraction=0.2))
    assert result.leaks == [] and result.utterances == len(corpus)
    (fold,) = [fold for fold in folds(corpus, "loso") if fold.name == "03"]
    copies = [
        recode(Path(path), tmp_path / f"{n}.mp3", "mp3 at 8 kHz") for n, path in enumerate(fold.split.test["path"])
    ]
    rows = [Utterance(str(copy), "sad", "x") for copy in copies[::7]]
    slipped = build_dataset(rows, fold.split.test.features["emotion"].names, "copies")
    (leak,) = audit([Fold("03", fold.split._replace(validation=slipped))]).leaks
    assert (leak.parts, len(leak.found)) == ("validation/test", len(rows))


@pytest.mark.real
def test_an_actor_who_repeats_a_sentence_is_not_taken_for_a_copy(shared):
    folder = shared / "data" / "ravdess"
    with open(folder / "metadata.csv", newline="") as file:
        files = sorted(row["file_name"] for row in csv.DictReader(file) if row["speaker"] in ("01", "07", "11", "23"))
    # The sixth number is the repetition.
    first, second = ([folder / f for f in files if f.split("-")[5] == n] for n in ("01", "02"))
    train, test = part(first), part(second, [f"x{n}" for n in range(len(second))])
    (leak,) = audit([Fold("repetition", Split(train, train.select([]), test))]).leaks
    # RAVDESS was published with one recording of actor 07 twice.
    one, other = (folder / f"03-01-03-01-02-{n}-07.flac" for n in ("01", "02"))
    assert leak.found == [f"{one} as {other} (identical bytes)"]
    assert one.read_bytes() == other.read_bytes()
