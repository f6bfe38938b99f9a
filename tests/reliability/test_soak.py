"""`predict` under many requests in one process: nothing grows, nothing is left behind, nothing fails."""

import io
import mmap
import os

import pytest
from test_benchmarks import load

from whisper_ser import load_model
from whisper_ser.audio import decoding

pytest.importorskip("psutil")
FEW, MANY = 300, 5000
LEAKED = 1_000_000


@pytest.fixture
def recognizer(small_model):
    return load_model(small_model, "cpu")


def check(figures: dict) -> None:
    assert figures["errors"] == []
    for name in ("handles", "threads", "temporary"):
        # The first tenth may open what stays open.
        assert len({state[name] for state in figures["states"]}) == 1, (name, figures["states"])


def test_a_few_hundred_requests(recognizer):
    figures = load("soak").soak(recognizer, FEW)
    check(figures)
    assert [state["requests"] for state in figures["states"]] == list(range(30, 301, 30))
    assert figures["grown_megabytes"] < 15


@pytest.mark.slow
def test_thousands_of_requests(recognizer):
    figures = load("soak").soak(recognizer, MANY)
    check(figures)
    # A clip of a second is 64 kB: one that is kept in every tenth request would be found.
    assert figures["grown_bytes_a_request"] < 4000


def test_a_leak_and_a_wrong_answer_would_be_found(recognizer, monkeypatch, tmp_path):
    soak, kept = load("soak"), []
    decode = decoding.decode

    def leaking(audio, *more, **other):
        # Memory of its own: what others freed on the heap of this process would hide a leak of this size there.
        memory = mmap.mmap(-1, LEAKED)
        memory.write(b"x" * LEAKED)
        kept.append((os.open(soak.__file__, os.O_RDONLY), memory))
        if isinstance(audio, io.BytesIO):
            audio = str(tmp_path / "absent.wav")
        return decode(audio, *more, **other)

    monkeypatch.setattr("whisper_ser.inference.predict.decode", leaking)
    figures = soak.soak(recognizer, 100)
    for file, _ in kept:
        os.close(file)
    assert figures["grown_bytes_a_request"] > LEAKED / 2
    assert figures["states"][-1]["handles"] > figures["states"][0]["handles"] + 50
    assert figures["errors"] and all("open file" in error for error in figures["errors"])
