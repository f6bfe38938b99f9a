"""How fast the feature store fills, with one process and two, and whether memory stays flat as the corpus grows.

    python benchmarks/bench_corpus.py --data_dir path/to/emodb4 --encoder openai/whisper-base --output corpus.json
    python benchmarks/bench_corpus.py ... --utterances 100 --processes 1   # less than a minute

Recordings of the corpus are repeated, each time a little softer: the store goes by what is heard, and would encode a
mere copy once. Every row starts `torchrun` on an empty store; time and memory are those of listening and filling.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.audio import read_audio
from whisper_ser.checkpoints import resolve_encoder
from whisper_ser.corpora.table import load_table
from whisper_ser.features import fill
from whisper_ser.listening import listen

RATE = 16000
SOFTER = 0.995
"""From one round of the recordings to the next."""


def main() -> None:
    arguments = parsed()
    if arguments.files_from is not None:
        measure(arguments)
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        files = repeated(load_table(arguments.data_dir)["path"], max(arguments.utterances), Path(scratch))
        rows = [
            launched(files[:utterances], processes, Path(scratch), arguments)
            for utterances, processes in itertools.product(arguments.utterances, arguments.processes)
        ]
    print(f"\n{arguments.encoder}, layers {' '.join(map(str, arguments.layers))}, {os.cpu_count()} cores\n")
    print("| utterances | processes | audio, h | time, s | hours of audio an hour | peak memory of a process, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    template = "| {utterances} | {processes} | {hours:.2f} | {seconds:.1f} | {hours_per_hour:.0f} | {peak_mb:.0f} |"
    for row in rows:
        print(template.format(**row))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of filling the feature store.")
    parser.add_argument("--data_dir", help="a corpus as a folder with a metadata.csv")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[3], help="kept, all in one pass")
    parser.add_argument("--utterances", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--scratch", type=Path, help="a folder with room for audio and states, 300 kB an utterance")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--files_from", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def repeated(paths: list[str], utterances: int, folder: Path) -> list[str]:
    """Writes `utterances` recordings, no two alike, and returns their paths."""
    files = []
    for index in tqdm(range(utterances), desc="writing recordings", leave=False):
        softness = SOFTER ** (index // len(paths))
        file = folder / f"{index:06d}.wav"
        soundfile.write(file, softness * read_audio(paths[index % len(paths)], RATE), RATE)
        files.append(str(file))
    return files


def launched(files: list[str], processes: int, scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of filling an empty store with `files` under `processes` processes."""
    (scratch / "files.json").write_text(json.dumps(files))
    with tempfile.TemporaryDirectory(dir=scratch) as store:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += [__file__, "--encoder", arguments.encoder, "--layers", *map(str, arguments.layers)]
        command += ["--files_from", str(scratch / "files.json"), "--store", store]
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **threads})
    return json.loads(run.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> None:
    """Fills the store as one of several processes; the first prints the figures of all."""
    process = PartialState(cpu=not torch.cuda.is_available())
    files = json.loads(arguments.files_from.read_text())
    model = WhisperForEmotionClassification.from_encoder(
        resolve_encoder(arguments.encoder), ["a", "b"], layer_index=max(arguments.layers)
    )
    extractor = WhisperSerFeatureExtractor(feature_size=model.config.encoder_config.num_mel_bins)
    process.wait_for_everyone()
    begin = time.perf_counter()
    sounds = listen(files, progress=False)
    fill(model, extractor, sounds, arguments.store, arguments.layers)
    seconds = time.perf_counter() - begin
    peaks = gather_object([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
    hours = sum(sound.seconds for sound in sounds.values()) / 3600
    if process.is_main_process:
        figures = {"utterances": len(files), "processes": process.num_processes, "hours": hours, "seconds": seconds}
        print(json.dumps({**figures, "hours_per_hour": hours / seconds * 3600, "peak_mb": max(peaks)}))
    process.destroy_process_group()


if __name__ == "__main__":
    main()
