"""The whole way: train, publish, and be used by a stranger who has neither this package nor the run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hub_server import WRITER, Hub

from whisper_ser.commands import train as run_train
from whisper_ser.inference.reference_output import compute_output, read_reference_output, waveform

MODEL = "user/whisper-demo"

STRANGER = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_whisper_ser", "whisper_ser"):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
from huggingface_hub import hf_hub_download
from transformers import AutoModelForAudioClassification, pipeline

model, commit, waveform = sys.argv[1:]
classifier = pipeline("audio-classification", model=model, trust_remote_code=True)
pinned = AutoModelForAudioClassification.from_pretrained(model, revision=commit, trust_remote_code=True)
told = {
    "answers": {a["label"]: a["score"] for a in classifier(np.load(waveform), top_k=4)},
    "same": all((a == b).all().item() for a, b in zip(pinned.parameters(), classifier.model.parameters())),
    "card": open(hf_hub_download(model, "README.md")).read(),
    "ours": [name for name in sys.modules if name.split(".")[0] in ("modeling_whisper_ser", "whisper_ser")],
}
print(json.dumps(told))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


def processes(hub: Hub, home: Path, token: str | None) -> dict[str, str]:
    """Returns the environment of a process whose Hub is `hub`; the address is read when the client is imported."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    login = {"HF_TOKEN": token} if token else {}
    return {**environment, **login, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)}


def run(command: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )


def test_a_demo_model_is_trained_published_and_gives_a_stranger_the_same_answers(hub, small_checkpoint, tmp_path):
    pytest.importorskip("espeakng_loader")
    output = tmp_path / "run"
    options = ["--encoder", str(small_checkpoint), "--data_dir", str(tmp_path / "demo"), "--num_train_epochs", "2"]
    run_train.main([str(ROOT / "recipes" / "demo.json"), *options, "--output_dir", str(output)])
    audio = waveform(read_reference_output(output / "model")["waveform"])[:50_000]
    before = compute_output(output / "model", audio)
    np.save(tmp_path / "audio.npy", audio)

    push = [
        str(ROOT / "push_to_hub.py"),
        str(output / "model"),
        "--repo_id",
        MODEL,
        "--card",
        str(tmp_path / "card.md"),
    ]
    pushed = run(push, tmp_path, processes(hub, tmp_path / "publisher", WRITER))
    assert pushed.returncode == 0, pushed.stderr
    commit = hub.repositories["model", MODEL].refs["main"]
    assert f"Checked: {hub.url}/{MODEL}\n" in pushed.stdout and commit in pushed.stdout
    assert f'pipeline("audio-classification", model="{MODEL}", trust_remote_code=True)' in pushed.stdout
    assert WRITER not in pushed.stdout + pushed.stderr
    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in everything if WRITER.encode() in path.read_bytes()], "a token was written"

    arguments = ["-c", STRANGER, MODEL, commit, str(tmp_path / "audio.npy")]
    used = run(arguments, tmp_path, processes(hub, tmp_path / "stranger", None))
    assert used.returncode == 0, used.stderr
    told = json.loads(used.stdout.splitlines()[-1])
    assert told["answers"] == pytest.approx(before, abs=1e-5) and told["same"] and not told["ours"]
    assert told["card"] == (tmp_path / "card.md").read_text()
    assert "The demo corpus is synthetic" in told["card"]
    saved = [path for path in (output / "model").rglob("*") if path.is_file()]
    names = {path.relative_to(output / "model").as_posix() for path in saved}
    assert set(hub.files(MODEL) or {}) == {".gitattributes", *names}


def test_a_user_sees_one_line_instead_of_a_stack_trace(hub, tmp_path):
    result = run(
        [str(ROOT / "push_to_hub.py"), "absent", "--repo_id", MODEL], tmp_path, processes(hub, tmp_path, None)
    )
    assert result.returncode == 1
    assert result.stderr == "push_to_hub.py: absent holds no model: give the folder model/ of a run, such as " + (
        "outputs/demo/model.\n"
    )
    assert not hub.requests
