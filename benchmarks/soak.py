"""Many requests to `predict` in one process: does memory grow, is a file or a thread left behind, does one fail?

    python benchmarks/soak.py outputs/emodb4/model --requests 5000 --output soak.json

The requests are of every kind, in random order: files of several formats and rates, channels apart, arrays of lengths
not met before, open files, lists, recordings of more than a minute, and files that cannot be used. A request is an
error if it raises what it should not, or answers otherwise than at first. Growth is counted from the middle of the
run, when the caches of torch and oneDNN are full. Counting handles needs Linux or macOS.
"""

import argparse
import contextlib
import io
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import soundfile
from tqdm import tqdm

import whisper_ser
from whisper_ser.errors import AudioFileError
from whisper_ser.inference.model import LoadedModel
from whisper_ser.inference.outputs import Prediction

CHECKS = 10
"""Times that memory, handles, threads and files are counted."""
TOLERANCE = 1e-5
WEIGHTS = {"wav": 6, "flac": 4, "channels": 3, "array": 6, "open file": 3, "list": 2, "bad": 3, "long": 0.3}
"""How often requests of each kind are made."""


class State(NamedTuple):
    """What a process holds after some requests; `temporary` counts the files it left."""

    requests: int
    megabytes: float
    handles: int
    threads: int
    temporary: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory, handles and errors of predict under many requests.")
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    figures = soak(whisper_ser.load_model(arguments.model), arguments.requests, arguments.seed)
    print("\n| requests | memory, MB | open handles | threads | files left |")
    print("| --- | --- | --- | --- | --- |")
    for state in figures["states"]:
        print("| {requests} | {megabytes:.1f} | {handles} | {threads} | {temporary} |".format(**state))
    print(
        f"\n{arguments.requests} requests in {figures['seconds']:.0f} s, errors: {len(figures['errors'])}, memory "
        f"grew by {figures['grown_megabytes']:.1f} MB in the second half"
    )
    for error in figures["errors"][:10]:
        print(f"  {error}")
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


def soak(recognizer: LoadedModel, requests: int, seed: int = 0) -> dict[str, Any]:
    """Returns the states along the way, the errors as text, and the growth of memory in the second half in MB."""
    draw = random.Random(seed)
    errors: list[str] = []
    with _places() as (folder, temporary):
        kinds = _kinds(recognizer, folder, draw)
        begin, states = time.perf_counter(), []
        every = max(1, requests // CHECKS)
        for number in tqdm(range(1, requests + 1), desc="requests", leave=False):
            (kind,) = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))
            try:
                kinds[kind]()
            except Exception as error:  # Whatever it is, it is what is counted.
                errors.append(f"request {number} ({kind}): {error!r}")
            if number % every == 0:
                states.append(_state(number, temporary))
        seconds = time.perf_counter() - begin
    middle = states[len(states) // 2]
    grown = states[-1].megabytes - middle.megabytes
    return {
        "states": [state._asdict() for state in states],
        "errors": errors,
        "grown_megabytes": grown,
        "grown_bytes_a_request": 1e6 * grown / max(1, states[-1].requests - middle.requests),
        "seconds": seconds,
    }


@contextlib.contextmanager
def _places() -> Iterator[tuple[Path, Path]]:
    """Yields a folder for the recordings, and one that temporary files of this process go to."""
    usual = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        (temporary := Path(folder, "temporary")).mkdir()
        tempfile.tempdir = str(temporary)
        try:
            yield Path(folder), temporary
        finally:
            tempfile.tempdir = usual


def _state(requests: int, temporary: Path) -> State:
    process = psutil.Process()
    files = sum(1 for _ in temporary.rglob("*"))
    return State(requests, process.memory_info().rss / 1e6, process.num_fds(), threading.active_count(), files)


def _kinds(recognizer: LoadedModel, folder: Path, draw: random.Random) -> dict[str, Callable[[], None]]:
    """Returns what makes a request of each kind and raises if its answer is wrong."""
    wav, flac, two, long, bad = (folder / name for name in ("a.wav", "b.flac", "two.wav", "long.wav", "bad.wav"))
    soundfile.write(wav, voice(1.3, 120), 16000)
    soundfile.write(flac, voice(0.9, 200, rate=44100), 44100)
    soundfile.write(two, np.stack([voice(0.7, 90), voice(0.7, 260)], axis=1), 16000)
    soundfile.write(long, voice(61.0, 150), 16000)
    bad.write_bytes(b"RIFF of no kind")
    content = wav.read_bytes()

    def predict(audio: Any, **more: Any) -> list[Prediction]:
        return whisper_ser.predict(audio, recognizer, **more)

    expected = {path: predict(path) for path in (wav, flac, long)} | {two: predict(two, channels="separate")}

    def of_array() -> None:
        (one,) = predict(voice(draw.uniform(0.03, 4.0), draw.uniform(80, 300)))
        _agree([sum(one.probabilities.values())], [1.0])

    def of_bad() -> None:
        with contextlib.suppress(AudioFileError):
            predict(bad)
            raise RuntimeError("a file that is no audio was answered")

    return {
        "wav": lambda: _same(predict(wav), expected[wav]),
        "flac": lambda: _same(predict(flac), expected[flac]),
        "channels": lambda: _same(predict(two, channels="separate"), expected[two]),
        "array": of_array,
        "open file": lambda: _same(predict(io.BytesIO(content)), expected[wav]),
        "list": lambda: _same(predict([wav, flac, wav]), [*expected[wav], *expected[flac], *expected[wav]]),
        "bad": of_bad,
        "long": lambda: _same(predict(long), expected[long]),
    }


def _same(found: list[Prediction], expected: list[Prediction]) -> None:
    if len(found) != len(expected):
        raise RuntimeError(f"{len(found)} answers instead of {len(expected)}")
    for one, other in zip(found, expected, strict=True):
        _agree([one.probabilities[label] for label in other.probabilities], list(other.probabilities.values()))


def _agree(found: list[float], expected: list[float]) -> None:
    if not np.allclose(found, expected, rtol=0, atol=TOLERANCE):
        raise RuntimeError(f"answered {found} instead of {expected}")


def voice(seconds: float, pitch: float, rate: int = 16000) -> np.ndarray:
    """Returns a humming voice `(samples,)`."""
    time_ = np.arange(round(seconds * rate)) / rate
    harmonics = sum(np.sin(2 * np.pi * k * pitch * time_) / k for k in range(1, 9))
    return (0.1 * harmonics * (1 + 0.5 * np.sin(2 * np.pi * 3 * time_))).astype(np.float32)


if __name__ == "__main__":
    main()
