"""A disk that is full or read-only, and files that go away: one clear line, and nothing is left half written."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import RATE, speechlike
from safetensors.numpy import load_file

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from reliability.processes import child, finished, notes
from reliability.work import FLAGS, check_whole, command, run_flags, train
from whisper_ser.data.audio_index import index_audio
from whisper_ser.errors import FeatureStoreError
from whisper_ser.io import replacing
from whisper_ser.training import feature_store as features
from whisper_ser.training.feature_store import fill


class Disk:
    """A file system in memory of a size that can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def mount(self, options: str) -> None:
        mounted = os.path.ismount(self.folder)
        how = ["-o", f"remount,{options}", str(self.folder)] if mounted else None
        how = how or ["-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(["mount", *how], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"mounting a small disk is not permitted here: {done.stderr.strip()}")

    def unmount(self) -> None:
        if os.path.ismount(self.folder):
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.unmount()


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_training_on_a_disk_that_fills_up_says_so_and_goes_on(
    disk, corpus, small_checkpoint, tmp_path, tried, thorough
):
    whole = tmp_path / "whole" / "run"
    assert finished(child(train, run_flags(corpus, small_checkpoint, whole, *FLAGS), tmp_path / "log")) == 0
    needed = used(tmp_path / "whole")
    expected = load_file(whole / "model" / "model.safetensors")
    argv = run_flags(corpus, small_checkpoint, disk.folder / "run", *FLAGS)
    ended_early = 0
    for tenths in range(1, 15) if thorough else (4, 9):
        disk.mount(f"size={needed * tenths // 10 // 4096 * 4}k")
        log, stderr = tmp_path / f"log{tenths}", tmp_path / f"stderr{tenths}"
        status = finished(child(train, argv, log, stderr=stderr))
        if status:
            ended_early += 1
            told = [noted["error"] for noted in notes(log) if "error" in noted]
            assert told, f"{tenths} tenths: " + stderr.read_text()[-3000:]
            assert "space" in told[0] or "room" in told[0] or "free" in told[0], told
            check_whole(disk.folder)
            disk.mount("size=1g")
            assert finished(child(train, argv, log, stderr=stderr)) == 0, notes(log)[-1:]
        found = load_file(disk.folder / "run" / "model" / "model.safetensors")
        assert all((found[name] == expected[name]).all() for name in expected)
        check_whole(disk.folder)
        disk.unmount()
        tried(1)
    assert ended_early >= (5 if thorough else 1)


def test_answers_for_a_full_disk_leave_what_was_there(disk, small_model, tmp_path, tried):
    (tmp_path / "voices").mkdir()
    for number in range(12):
        soundfile.write(tmp_path / "voices" / f"{'n' * 150}{number:02d}.wav", speechlike(0.3, 90 + number), RATE)
    disk.mount("size=8k")
    (disk.folder / "answers.csv").write_text("old\n")
    (disk.folder / "filler").write_bytes(bytes(4096))
    stderr = tmp_path / "stderr"
    argv = ["predict", str(tmp_path / "voices"), "--model", str(small_model), "--format", "csv"]
    status = finished(child(command, [*argv, "--output", str(disk.folder / "answers.csv")], stderr=stderr))
    assert status == 1 and "No space left" in stderr.read_text() and "Traceback" not in stderr.read_text()
    assert (disk.folder / "answers.csv").read_text() == "old\n"
    assert {path.name for path in disk.folder.iterdir()} == {"answers.csv", "filler"}
    tried(1)


def test_a_read_only_folder_is_named(disk, corpus, small_checkpoint, small_model, tmp_path, tried):
    disk.mount("size=1m")
    soundfile.write(disk.folder / "voice.wav", speechlike(0.3), RATE)
    disk.mount("ro")
    log = tmp_path / "log"
    argv = run_flags(corpus, small_checkpoint, tmp_path / "run", *FLAGS)
    assert finished(child(train, [*argv, "--feature_dir", str(disk.folder / "features")], log)) == 1
    assert "cannot be written (Read-only file system)" in notes(log)[-1]["error"]
    assert finished(child(train, [*argv, "--output_dir", str(disk.folder / "run")], log)) == 1
    assert "Read-only file system" in notes(log)[-1]["error"] and str(disk.folder) in notes(log)[-1]["error"]
    # What only reads works there.
    argv = ["predict", str(disk.folder / "voice.wav"), "--model", str(small_model)]
    assert finished(child(command, argv)) == 0
    tried(3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES])
def test_a_store_that_cannot_be_written_is_told_and_stays_good(
    small_checkpoint, corpus, tmp_path, monkeypatch, tried, number
):
    monkeypatch.setattr(features, "SHARD_SECONDS", 2.0)
    monkeypatch.setattr(features, "BATCH_SECONDS", 2.0)
    records = index_audio(sorted(str(path) for path in corpus.glob("0[0-2]_*.wav")), progress=False)
    model, extractor = new_model(small_checkpoint), WhisperSerFeatureExtractor()
    write, count = Path.write_bytes, 0

    def failing(path: Path, content: bytes) -> int:
        nonlocal count
        count += 1
        if count == 3:
            write(path, content[:100])
            raise OSError(number, os.strerror(number))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises(FeatureStoreError, match=f"cannot be written .{os.strerror(number)}"):
        fill(model, extractor, records, tmp_path)
    monkeypatch.undo()
    left = list(tmp_path.rglob("*.safetensors"))
    assert len(left) == 2 and not list(tmp_path.rglob(".*"))
    stored = fill(model, extractor, records, tmp_path)
    assert all(stored.read(path).isfinite().all() for path in records)
    tried(1)


def new_model(checkpoint: Path) -> WhisperForEmotionClassification:
    torch.set_num_threads(1)
    return WhisperForEmotionClassification.from_encoder(checkpoint, ["a", "b"], layer_index=1)


def test_a_store_removed_while_it_is_being_filled_says_so(small_checkpoint, corpus, tmp_path, monkeypatch, tried):
    monkeypatch.setattr(features, "SHARD_SECONDS", 2.0)
    monkeypatch.setattr(features, "BATCH_SECONDS", 2.0)
    records = index_audio(sorted(str(path) for path in corpus.glob("0[0-2]_*.wav")), progress=False)
    write, count = features._write_shard, 0

    def removed_after_the_second(folder: Path, states: dict) -> None:
        nonlocal count
        count += 1
        write(folder, states)
        if count == 2:
            shutil.rmtree(tmp_path)

    monkeypatch.setattr(features, "_write_shard", removed_after_the_second)
    with pytest.raises(FeatureStoreError, match="changed while it was being filled. Start the same command again"):
        fill(new_model(small_checkpoint), WhisperSerFeatureExtractor(), records, tmp_path)
    monkeypatch.setattr(features, "_write_shard", write)
    assert fill(new_model(small_checkpoint), WhisperSerFeatureExtractor(), records, tmp_path)
    tried(1)


def test_a_store_removed_during_a_training_ends_it_in_words(corpus, small_checkpoint, tmp_path, monkeypatch, tried):
    from whisper_ser.commands import train as run_train
    from whisper_ser.training import trainer as training

    argv = run_flags(corpus, small_checkpoint, tmp_path / "run", *FLAGS)
    seal = training.write_checksums

    def removed_after_the_second_epoch(checkpoint: Path) -> None:
        seal(checkpoint)
        if checkpoint.name == "checkpoint-6":
            shutil.rmtree(tmp_path / "run-features")

    monkeypatch.setattr(training, "write_checksums", removed_after_the_second_epoch)
    torch.set_num_threads(1)
    with pytest.raises(FeatureStoreError, match="cannot be read any more.*Start the same command again"):
        run_train.main(argv)
    monkeypatch.undo()
    run_train.main(argv)
    check_whole(tmp_path / "run")
    tried(1)


def test_a_file_whose_replacement_fails_stays_as_it_was(tmp_path, monkeypatch, tried):
    target = tmp_path / "folder"
    with replacing(target) as path:
        path.mkdir()
        (path / "file").write_text("old")
    rename, count = os.replace, 0

    def failing(*names: str) -> None:
        nonlocal count
        count += 1
        if count == 2:  # the old folder has stepped aside, the new one cannot come
            raise OSError(errno.EIO, "no")
        rename(*names)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="no"), replacing(target) as path:
        path.mkdir()
        (path / "file").write_text("new")
    assert (target / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    tried(1)
