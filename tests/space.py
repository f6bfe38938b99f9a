"""The Space as it would be uploaded, started in a folder and a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

from whisper_ser.hub.space import stage_space

WITHOUT_THE_CHECKOUT = f"""
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
sys.path = [path for path in sys.path if path != {str(ROOT)!r}]
"""
"""Of a sitecustomize.py: an editable install must not stand in for what the Space has to bring along."""
PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Space:
    """A Space that runs at `url`; what it is given is kept somewhere in `temporary`."""

    url: str
    temporary: Path


@contextmanager
def running_space(folder: Path, models: str, **environment: str) -> Iterator[Space]:
    """Yields the Space of so many models, separated by commas; ends it as Docker would, nothing left behind."""
    stage_space(folder / "space", "user/tones")
    temporary, early = folder / "temporary", folder / "early"
    temporary.mkdir()
    early.mkdir()
    (early / "sitecustomize.py").write_text(WITHOUT_THE_CHECKOUT)
    port = _free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GRADIO_")},
        "PYTHONPATH": str(early),
        "GRADIO_SERVER_PORT": str(port),
        "TMPDIR": str(temporary),
        "WHISPER_SER_MODEL": models,
        **environment,
    }
    log = folder / "log.txt"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder / "space", env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(f"http://127.0.0.1:{port}/", process, log)
        yield Space(f"http://127.0.0.1:{port}", temporary)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
    left = list(temporary.glob("whisper-ser-page-*"))
    assert not left, f"The Space has ended, and what was given to it is still there: {left}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(5 * PATIENCE_SECONDS):
        try:
            urllib.request.urlopen(url, timeout=PATIENCE_SECONDS).close()
            return
        except urllib.error.URLError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    raise AssertionError(f"The Space did not start:\n{log.read_text()}")
