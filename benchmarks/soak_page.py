"""Many visitors of the page: does its memory grow, does it lose an answer, give a wrong one, or leave a file behind?

    python benchmarks/soak_page.py outputs/emodb4/model --requests 600 --output soak_page.json

The page runs in a process of its own. Visitors at the same time upload recordings of several formats and lengths, and
files that are none. A request is an error if its answer is not that of `predict`, or not the message it should be.
What is uploaded lies on the disk for an hour and goes when the page ends; files left are counted after its end. Growth
is that of the last third of the run over the one before it, medians. Counting handles needs Linux or macOS.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from soak import voice
from tqdm import tqdm

import whisper_ser

PAGE = Path(__file__).parent.parent / "app.py"
CHECKS = 10
"""Times that memory, handles and threads of the page are counted."""
TOLERANCE = 1e-3
WEIGHTS = (8, 8, 4, 1, 4)
"""How often each recording is uploaded, in the order of `_recordings`."""
PATIENCE_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory, handles and errors of the page under many requests.")
    parser.add_argument("model", help="folder of a model")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--visitors", type=int, default=4, help="at the same time")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    figures = soak(arguments.model, arguments.requests, arguments.visitors)
    print("\n| requests | memory of the page, MB | open handles | threads |")
    print("| --- | --- | --- | --- |")
    for state in figures["states"]:
        print("| {requests} | {megabytes:.1f} | {handles} | {threads} |".format(**state))
    print(
        f"\n{arguments.requests} requests of {arguments.visitors} visitors in {figures['seconds']:.0f} s, errors: "
        f"{len(figures['errors'])}, memory grew by {figures['grown_megabytes']:.1f} MB in the last third, files left "
        f"after the end: {figures['left']}"
    )
    for error in figures["errors"][:10]:
        print(f"  {error}")
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


def soak(model: str | Path, requests: int, visitors: int = 4, seed: int = 0) -> dict[str, Any]:
    """Returns the states along the way, the errors as text, growth in the last third in MB, and files left."""
    errors: list[str] = []
    states: list[dict[str, float]] = []
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        recordings = _recordings(Path(scratch), model)
        draw, places = random.Random(seed), Path(scratch, "places")
        places.mkdir()
        with running(model, places) as (page, url):
            clients = [Client(url, verbose=False, analytics_enabled=False) for _ in range(visitors)]
            every = max(visitors, requests // CHECKS)
            with ThreadPoolExecutor(visitors) as pool, tqdm(total=requests, desc="requests", leave=False) as bar:
                for done in range(0, requests, every):
                    batch = draw.choices(list(recordings.items()), WEIGHTS, k=min(every, requests - done))
                    # Each client asks one question at a time, as a visitor does.
                    shares = [batch[number::visitors] for number in range(visitors)]
                    for found in pool.map(_visit, clients, shares):
                        errors += found
                    bar.update(len(batch))
                    states.append(_state(page, done + len(batch)))
        left = sorted(path.name for path in places.iterdir())
    # Memory is counted while the next recordings are on their way: the middle of several says more than one.
    third = max(1, len(states) // 3)
    middle, end = (
        median(state["megabytes"] for state in part) for part in (states[-2 * third : -third], states[-third:])
    )
    grown = end - middle
    seconds = time.perf_counter() - begin
    return {"states": states, "errors": errors, "grown_megabytes": grown, "left": left, "seconds": seconds}


@contextmanager
def running(model: str | Path, temporary: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Yields the process of the page and its address; ends it as `docker stop` does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(temporary)}
    command = [sys.executable, str(PAGE), str(model)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/"
        _wait(url, process)
        yield psutil.Process(process.pid), url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


def _wait(url: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE_SECONDS).close()
            return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise SystemExit("The page did not start: try `python app.py MODEL`.")


def _recordings(folder: Path, model: str | Path) -> dict[Path, dict[str, float] | None]:
    """Returns recordings and what `predict` says of each; `None` for a file that is none."""
    made: dict[str, tuple[np.ndarray, int]] = {
        "short.wav": (voice(0.9, 120), 16000),
        "clip.flac": (voice(4.0, 200, rate=44100), 44100),
        "two.ogg": (np.stack([voice(2.0, 90), voice(2.0, 260)], axis=1), 16000),
        "minute.wav": (voice(60.0, 150), 16000),
    }
    for name, (samples, rate) in made.items():
        soundfile.write(folder / name, samples, rate)
    (folder / "text.wav").write_bytes(b"RIFF of no kind")
    paths = [folder / name for name in made]
    answers = {path: one.probabilities for path, one in zip(paths, whisper_ser.predict(paths, model), strict=True)}
    return {**answers, folder / "text.wav": None}


def _visit(client: Client, recordings: list[tuple[Path, dict[str, float] | None]]) -> list[str]:
    """Returns what was wrong with the answers to one visitor."""
    errors = []
    for path, expected in recordings:
        try:
            answer = client.predict(handle_file(path), api_name="/recognise")
            found = {entry["label"]: entry["confidence"] for entry in answer[0]["confidences"]}
            if expected is None or any(abs(found[label] - expected[label]) > TOLERANCE for label in expected):
                errors.append(f"{path.name}: answered {found} instead of {expected}")
        except AppError as error:
            if expected is not None or not str(error).startswith("This recording "):
                errors.append(f"{path.name}: {error}")
        except Exception as error:  # Whatever it is, it is what is counted.
            errors.append(f"{path.name}: {error!r}")
    return errors


def _state(page: psutil.Process, requests: int) -> dict[str, float]:
    return {
        "requests": requests,
        "megabytes": page.memory_info().rss / 1e6,
        "handles": page.num_fds(),
        "threads": page.num_threads(),
    }


if __name__ == "__main__":
    main()
