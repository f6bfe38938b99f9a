"""Broken or hostile audio gives a result or a typed error, in bounded time and memory."""

import os
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, speechlike

import whisper_ser
from reliability.broken_audio import broken, originals
from reliability.processes import child, finished, note, notes
from whisper_ser import cli
from whisper_ser.audio.decoding import decode, read_audio
from whisper_ser.data.audio_index import hear
from whisper_ser.errors import AudioFileError
from whisper_ser.inference.model import LoadedModel
from whisper_ser.inference.outputs import Failure

MOST_SECONDS = 20
"""Of the processor for one file of a third of a second: a file may become a minute long by its header."""
MOST_BYTES = 2**30
"""By which the process may grow over all files: the blocks of a header that claims many channels, and their sums."""


def try_files(model: Path, sources: list[Path], folder: Path, cases: int, seed: int, log: Path) -> None:
    """Reads, decodes and classifies broken files in this process, noting each before and after."""
    recognizer = whisper_ser.load_model(model, "cpu")
    start = peak_memory()
    for what, path in broken(sources, folder, cases, seed):
        note(log, begun=what)
        before = time.process_time()
        outcomes = [read_outcome(path), decode_outcome(path), predict_outcome(path, recognizer)]
        note(log, done=outcomes, seconds=time.process_time() - before, grown=peak_memory() - start)


def read_outcome(path: Path) -> str:
    try:
        audio = read_audio(path)
    except AudioFileError as error:
        return error.reason
    assert audio.dtype == np.float32 and audio.ndim == 1 and len(audio) and np.isfinite(audio).all()
    return "result"


def decode_outcome(path: Path) -> str:
    try:
        blocks = [*decode(path, "it", RATE)]
    except AudioFileError as error:
        return error.reason
    assert all(block.dtype == np.float32 and np.isfinite(block).all() for block in blocks)
    return "result"


def predict_outcome(audio: Path | np.ndarray, recognizer: LoadedModel) -> str:
    (result,) = whisper_ser.predict_each([audio], recognizer)
    if isinstance(result, Failure):
        return result.reason
    values = list(result.probabilities.values())
    assert np.isfinite(values).all() and sum(values) == pytest.approx(1, abs=1e-4)
    return "result"


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_files_with_broken_headers_and_contents(small_model, tmp_path, thorough, tried):
    cases = 2100 if thorough else 280
    log = tmp_path / "log"
    sources = originals(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    process = child(try_files, small_model, sources, tmp_path / "bad", cases, 0, log)
    status = finished(process, 1500)
    noted = notes(log)
    assert status == 0, f"it ended with {status} at {noted[-2:]}"
    done = noted[1::2]
    assert len(done) == cases
    assert max(one["seconds"] for one in done) < MOST_SECONDS, max(done, key=lambda one: one["seconds"])
    assert done[-1]["grown"] < MOST_BYTES
    answered = sum(one["done"][2] == "result" for one in done)
    assert cases * 0.1 < answered < cases * 0.9, "neither all good nor all unreadable: something was tried"
    tried(3 * cases)


def wav_header(*, rate: int = RATE, channels: int = 1, bits: int = 16, size: int = 0) -> bytes:
    frame = channels * bits // 8
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, min(rate * frame, 2**32 - 1), frame % 2**16, bits)
    return (
        struct.pack("<4sI4s", b"RIFF", min(36 + size, 2**32 - 1), b"WAVE") + fmt + struct.pack("<4sI", b"data", size)
    )


def flac_that_declares(total: int, rate: int = RATE) -> bytes:
    """A FLAC file without frames, whose header promises `total` samples (36 bits)."""
    packed = (rate << 44) | (0 << 41) | (15 << 36) | total
    info = struct.pack(">HH", 4096, 4096) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info


SAMPLES = (1000 * np.sin(np.arange(4800) / 5)).astype("<i2").tobytes()
DECLARED = {
    "no rate": wav_header(rate=0, size=9600) + SAMPLES,
    "one hertz": wav_header(rate=1, size=9600) + SAMPLES,
    "a rate of four billion": wav_header(rate=2**32 - 1, size=9600) + SAMPLES,
    "no channels": wav_header(channels=0, size=9600) + SAMPLES,
    "1024 channels": wav_header(channels=1024, size=9600) + SAMPLES,
    "65535 channels": wav_header(channels=65535, size=9600) + SAMPLES,
    "no bits": wav_header(bits=0, size=9600) + SAMPLES,
    "4 GB that are not there": wav_header(size=2**32 - 1) + SAMPLES,
    "no length": wav_header(size=0) + SAMPLES,
    "an odd length": wav_header(size=9599) + SAMPLES,
    "68 billion samples of FLAC": flac_that_declares(2**36 - 1),
    "4 billion samples of FLAC at 1 Hz": flac_that_declares(2**32, rate=1),
    "68 billion samples of FLAC at 655,350 Hz": flac_that_declares(2**36 - 1, rate=655350),
}


def try_declared(model: Path, folder: Path, log: Path) -> None:
    recognizer = whisper_ser.load_model(model, "cpu")
    for name, content in DECLARED.items():
        path = folder / f"{name}.{'flac' if 'FLAC' in name else 'wav'}"
        path.write_bytes(content)
        start = peak_memory()
        outcomes = [read_outcome(path), decode_outcome(path), predict_outcome(path, recognizer)]
        note(log, name=name, done=outcomes, grown=peak_memory() - start)


def test_headers_that_declare_what_is_not_there(small_model, tmp_path, tried):
    log = tmp_path / "log"
    status = finished(child(try_declared, small_model, tmp_path, log))
    noted = notes(log)
    assert status == 0 and len(noted) == len(DECLARED), noted[-1:]
    for one in noted:
        assert one["grown"] < 2**28, one
    outcome = {one["name"]: one["done"][2] for one in noted}
    assert outcome["4 GB that are not there"] == outcome["an odd length"] == "result"
    assert "sampling rate of 1 Hz" in outcome["one hertz"]
    assert sum(said == "result" for said in outcome.values()) == 2
    tried(len(DECLARED))


def test_every_rate_and_number_of_channels_that_recorders_have(small_model, tmp_path, tried, thorough):
    recognizer = whisper_ser.load_model(small_model, "cpu")
    rates = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
    for rate in rates:
        for channels in range(1, 9) if thorough else (1, 2, 8):
            time_of = np.arange(round(0.2 * rate)) / rate
            tones = [0.2 * np.sin(2 * np.pi * (150 + 40 * c) * time_of) for c in range(channels)]
            path = tmp_path / "it.wav"
            soundfile.write(path, np.stack(tones, axis=1), rate)
            results = [*whisper_ser.predict_each([path], recognizer, channels="separate")]
            assert len(results) == channels and all(one.seconds == pytest.approx(0.2, abs=2e-3) for one in results)
            assert predict_outcome(path, recognizer) == "result"
            tried(1)


def clips() -> dict[str, tuple[np.ndarray, str]]:
    """Samples at 16 kHz, and what is said of each: a result, or part of an error."""
    voice, ramp = speechlike(0.5), np.linspace(-1, 1, RATE, dtype=np.float32)
    return {
        "one sample": (voice[:1], "too short"),
        "one sample less than a window": (voice[:399], "too short"),
        "a window": (voice[:400], "result"),
        "nothing": (voice[:0], "no samples"),
        "zeros": (np.zeros(RATE, np.float32), "silent"),
        "a constant": (np.full(RATE, 0.5, np.float32), "silent"),
        "the smallest steps": (np.float32(2**-14) * np.sign(voice), "result"),
        "numbers that are hardly any": (1e-40 * voice, "silent"),
        "clipped": (np.clip(100 * voice, -1, 1), "result"),
        "a ramp": (ramp, "result"),
        "a click": (np.eye(1, RATE, RATE // 2, dtype=np.float32)[0], "result"),
        "beyond full scale": (1e9 * voice, "result"),
        "the largest numbers": (1e38 * voice, "beyond 1e+12"),
        "one NaN": (np.where(np.arange(8000) == 4000, np.nan, voice), "NaN or infinite"),
        "one infinity": (np.where(np.arange(8000) == 7999, np.inf, voice), "NaN or infinite"),
    }


@pytest.mark.parametrize("name", clips())
def test_odd_samples(small_model, tmp_path, tried, name):
    samples, said = clips()[name]
    path = tmp_path / "it.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    recognizer = whisper_ser.load_model(small_model, "cpu")
    for outcome in (read_outcome(path), predict_outcome(path, recognizer), predict_outcome(samples, recognizer)):
        assert said in outcome
        tried(1)


def test_what_is_no_file_is_told_and_nothing_waits(small_model, tmp_path, tried, capsys):
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    (tmp_path / "a.wav").symlink_to(tmp_path / "b.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "absent")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    names = ["loop.wav", "a.wav", "dangling.wav", "folder.wav", "pipe.wav", "x" * 300 + ".wav", "absent.wav"]
    recognizer = whisper_ser.load_model(small_model, "cpu")
    for name in names:
        assert read_outcome(tmp_path / name) != "result"
        assert predict_outcome(tmp_path / name, recognizer) != "result"
        tried(2)
    sounds, unusable = hear([str(tmp_path / name) for name in names], progress=False)
    assert not sounds and len(unusable) == len(names)
    assert cli.main(["predict", *(str(tmp_path / n) for n in names if n != "folder.wav"), "--model", str(small_model)])
    said = capsys.readouterr().err
    assert [name for name in names if name != "folder.wav" and name not in said] == [], said
    assert "Traceback" not in said


def test_folders_that_link_to_themselves_are_read_once(small_model, tmp_path, tried, capsys):
    soundfile.write(tmp_path / "voice.wav", speechlike(0.5), RATE)
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "up").symlink_to(tmp_path)
    assert cli.main(["predict", str(tmp_path), "--model", str(small_model), "--format", "jsonl"]) == 0
    assert capsys.readouterr().out.count("voice.wav") == 1
    tried(1)
