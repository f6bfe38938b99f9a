"""A long recording joined of real clips: what share of the speech is labelled right, how fast, in what memory.

Clips of speakers that the model was not trained on, drawn again until the recording is long enough, stand 0.5 s of
silence apart. A second of speech is right when it carries the label of its clip; speech that is taken for silence
is wrong. A window stands for one hop around its middle. Each row is measured in a process of its own.

    python benchmarks/timeline.py --model path/to/model --data_dir path/to/emodb4 --speakers 15 16
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import torch

from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.corpora.table import load_table
from whisper_ser.inference.model import load_model
from whisper_ser.inference.outputs import Span
from whisper_ser.inference.timeline import timeline

RATE, PER_SECOND = 16000, 100
GAP_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy, speed and memory of the timeline of a joined recording.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--speakers", nargs="+", required=True, help="that the model was not trained on")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.flac"
        spoken = join(arguments.data_dir, arguments.speakers, arguments.minutes, path)
        rows = []
        for cut in ("pauses", "even"):
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                row = process.submit(measure, path, arguments.model, cut, arguments.threads, spoken).result()
            rows.append({"cut": cut, **row})
    report(rows, arguments)


def join(data_dir: str, speakers: list[str], minutes: float, path: Path) -> list[tuple[float, float, str]]:
    """Writes the recording, and returns start, end and emotion of each clip in it."""
    corpus = load_table(data_dir)
    names = corpus.features["emotion"].names
    chosen = [
        (file, names[emotion])
        for file, emotion, speaker in zip(corpus["path"], corpus["emotion"], corpus["speaker"], strict=True)
        if speaker in speakers
    ]
    if not chosen:
        raise SystemExit(f"{data_dir} has no clip of {', '.join(speakers)}.")
    clips = [(read_audio(file, RATE), emotion) for file, emotion in chosen]
    rng, spoken, samples = random.Random(0), [], 0
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        while samples < 60 * minutes * RATE:
            audio, emotion = rng.choice(clips)
            spoken.append((samples / RATE, (samples + len(audio)) / RATE, emotion))
            for part in (audio, np.zeros(round(GAP_SECONDS * RATE))):
                file.write(part)
                samples += len(part)
    return spoken


def measure(
    path: Path, model: str, cut: str, threads: int, spoken: list[tuple[float, float, str]]
) -> dict[str, float]:
    """Returns accuracies, times the audio is faster heard than spoken, seconds of CPU, and peak memory in MB."""
    torch.set_num_threads(threads)
    recognizer = load_model(model, "cpu")
    wall, cpu = time.perf_counter(), time.process_time()
    found = timeline(path, recognizer, cut=cut)  # type: ignore[arg-type]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    middles = [
        Span((w.start + w.end - found.hop) / 2, (w.start + w.end + found.hop) / 2, w.probabilities)
        for w in found.windows
    ]
    return {
        "clips": len(spoken),
        "seconds": found.seconds,
        "segments": right(found.segments, spoken, found.seconds),
        "windows": right(middles, spoken, found.seconds),
        "speed": found.seconds / wall,
        "cpu_seconds": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def right(spans: list[Span], spoken: list[tuple[float, float, str]], seconds: float) -> float:
    """Returns the share of speech that carries the emotion of its clip, in steps of 10 ms."""
    said = np.full(round(seconds * PER_SECOND) + 1, "", dtype=object)
    for span in spans:
        said[max(0, round(span.start * PER_SECOND)) : round(span.end * PER_SECOND)] = span.label
    hits = [said[round(start * PER_SECOND) : round(end * PER_SECOND)] == emotion for start, end, emotion in spoken]
    return float(np.concatenate(hits).mean())


def report(rows: list[dict], arguments: argparse.Namespace) -> None:
    first = rows[0]
    print(
        f"\n{first['clips']} clips of {', '.join(arguments.speakers)} in {first['seconds'] / 60:.1f} minutes, ", end=""
    )
    print(f"{arguments.threads} threads\n")
    print("| cut | speech labelled right: segments, % | windows, % | x real time | CPU, s | peak memory, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        accuracies = f"{100 * row['segments']:.1f} | {100 * row['windows']:.1f}"
        print(
            f"| {row['cut']} | {accuracies} | {row['speed']:.0f} | {row['cpu_seconds']:.0f} | {row['peak_mb']:.0f} |"
        )
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
