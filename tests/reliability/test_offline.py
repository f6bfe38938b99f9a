"""No command reaches for the network with what lies on this machine, and HF_HUB_OFFLINE=1 keeps every one from it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from conftest import RATE, ROOT, speechlike

from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.errors import CheckpointError

GUARD = """
import os, socket, sys

def refuse(*arguments, **named):
    with open(os.environ["SOCKET_LOG"], "a") as log:
        log.write(f"{sys.argv} {arguments}\\n")
    raise OSError("this test has no network")

class NoSocket(socket.socket):
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
            refuse(address)
        return super().connect(address)
    def connect_ex(self, address):
        self.connect(address)
        return 0

socket.socket = NoSocket
socket.getaddrinfo = refuse
socket.gethostbyname = refuse
"""


@pytest.fixture
def run(tmp_path):
    """Returns what runs a command in a process that has no network, and the file of what it asked for all the same."""
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    log = tmp_path / "sockets"

    def run(offline: str | None, *command: str) -> tuple[subprocess.CompletedProcess, str]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(guard), str(ROOT)]),
            "SOCKET_LOG": str(log),
            "HF_HOME": str(tmp_path / "hub"),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("HF_HUB_OFFLINE", None)
        if offline:
            environment["HF_HUB_OFFLINE"] = offline
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600
        )
        return done, log.read_text() if log.exists() else ""

    return run


def test_the_guard_sees_what_asks(run):
    done, asked = run(None, "-c", "import socket; socket.create_connection(('example.org', 80))")
    assert done.returncode != 0 and "example.org" in asked


@pytest.fixture
def commands(trained, corpus, small_checkpoint, tmp_path) -> dict[str, list[str]]:
    soundfile.write(tmp_path / "voice.wav", speechlike(0.5), RATE)
    cli, model, voice = ["-m", "whisper_ser.cli"], str(trained / "model"), str(tmp_path / "voice.wav")
    training = ["--data_dir", str(corpus), "--encoder", str(small_checkpoint), "--layers", "1"]
    return {
        "predict": [*cli, "predict", voice, "--model", model],
        "timeline": [*cli, "timeline", voice, "--model", model],
        "verify": [*cli, "verify", model],
        "describe": [*cli, "describe", "own", str(corpus)],
        "compare": [*cli, "compare", str(trained), str(trained), "--resamples", "10"],
        "train": [str(ROOT / "run_train.py"), *training, "--num_train_epochs", "1", "--output_dir", "out"],
    }


@pytest.mark.parametrize("offline", [None, pytest.param("1", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["predict", "train"])
def test_commands_ask_nobody(run, commands, tried, name, offline):
    done, asked = run(offline, *commands[name])
    assert done.returncode == 0, done.stderr
    assert asked == ""
    tried(1)


@pytest.mark.slow
@pytest.mark.parametrize("offline", [None, "1"])
@pytest.mark.parametrize("name", ["timeline", "verify", "describe", "compare"])
def test_the_other_commands_ask_nobody(run, commands, tried, name, offline):
    test_commands_ask_nobody(run, commands, tried, name, offline)


@pytest.mark.slow
def test_offline_a_model_of_the_hub_is_not_asked_for(run, corpus, tried):
    voice = str(next(corpus.glob("*.wav")))
    for command in (
        ["-m", "whisper_ser.cli", "predict", voice, "--model", "user/name"],
        ["-m", "whisper_ser.cli", "verify", "user/name"],
        ["-m", "whisper_ser.cli", "describe", "own", "user/dataset"],
        [str(ROOT / "run_train.py"), "--data_dir", str(corpus), "--encoder", "openai/whisper-base"],
        [str(ROOT / "run_train.py"), "--data_dir", str(corpus), "--model_name_or_path", "user/name"],
    ):
        done, asked = run("1", *command)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert asked == "", command
        tried(1)


def test_offline_an_encoder_that_is_not_here_is_refused_in_words(monkeypatch, tmp_path, tried):
    monkeypatch.setattr("whisper_ser.demo.encoder.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        resolve_encoder("openai/whisper-base")
    assert not list(Path(tmp_path).iterdir())
    tried(1)
