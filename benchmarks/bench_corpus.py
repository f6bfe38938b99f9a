"""How fast the feature store fills or `whisper-ser predict` answers, by utterances and processes; memory and disk.

    python benchmarks/bench_corpus.py --data_dir path/to/emodb4 --encoder openai/whisper-base --output corpus.json
    python benchmarks/bench_corpus.py ... --utterances 100 --processes 1   # less than a minute
    python benchmarks/bench_corpus.py ... --model outputs/emodb4/model     # predict instead of the store

Recordings of the corpus are repeated, each time a little softer: the store goes by what is heard, and would encode a
mere copy once. Every row starts `torchrun` on an empty folder. Time and memory are those of indexing the audio and
filling, or of predicting and joining, without the seconds in which the processes start; processor time is the sum of
all processes, and is what other work on the machine changes least.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.audio_index import index_audio
from whisper_ser.data.corpora.table import load_table
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.inference.formats import prediction_row, write_parquet
from whisper_ser.inference.model import load_model
from whisper_ser.inference.outputs import Prediction
from whisper_ser.inference.sharded import ShardOptions, predict_shard, read_shards, shards_of
from whisper_ser.training.feature_store import fill

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
    what = arguments.model or f"{arguments.encoder}, layers {' '.join(map(str, arguments.layers))}"
    print(f"\n{what}, {os.cpu_count()} cores\n")
    print("| utterances | processes | audio, h | time, s | processor time, s | of it an hour of audio, s ", end="")
    print("| peak memory of a process, MB | written, MB |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    template = "| {utterances} | {processes} | {hours:.3f} | {seconds:.1f} | {cpu_seconds:.1f} "
    template += "| {cpu_seconds_per_hour:.0f} | {peak_mb:.0f} | {written_mb:.2f} |"
    for row in rows:
        print(template.format(**row))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of filling the feature store.")
    parser.add_argument("--data_dir", help="a corpus as a folder with a metadata.csv")
    parser.add_argument("--encoder", help="whose states are stored")
    parser.add_argument("--model", help="a trained model that predicts instead")
    parser.add_argument("--layers", type=int, nargs="+", default=[3], help="kept, all in one pass")
    parser.add_argument("--utterances", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--scratch", type=Path, help="a folder with room for audio and states, 300 kB an utterance")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--files_from", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if (arguments.encoder is None) == (arguments.model is None):
        parser.error("give --encoder to fill a store, or --model to predict")
    return arguments


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
        command += [__file__, "--files_from", str(scratch / "files.json"), "--store", store]
        if arguments.model:
            command += ["--model", arguments.model]
        else:
            command += ["--encoder", arguments.encoder, "--layers", *map(str, arguments.layers)]
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **threads})
        written = sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file()) / 1e6
    return json.loads(run.stdout.splitlines()[-1]) | {"written_mb": written}


def measure(arguments: argparse.Namespace) -> None:
    """Does the work as one of several processes; the first prints the figures of all."""
    process = PartialState(cpu=not torch.cuda.is_available())
    files = json.loads(arguments.files_from.read_text())
    work = predicting(files, arguments) if arguments.model else filling(files, arguments)
    process.wait_for_everyone()
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    process.wait_for_everyone()
    seconds = time.perf_counter() - begin
    used = gather_object([time.process_time() - cpu])
    peaks = gather_object([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
    hours = sum(soundfile.info(file).duration for file in files) / 3600
    if process.is_main_process:
        figures = {"utterances": len(files), "processes": process.num_processes, "hours": hours, "seconds": seconds}
        figures |= {"cpu_seconds": sum(used), "cpu_seconds_per_hour": sum(used) / hours, "peak_mb": max(peaks)}
        print(json.dumps(figures))
    process.destroy_process_group()


def filling(files: list[str], arguments: argparse.Namespace) -> Callable[[], object]:
    model = WhisperForEmotionClassification.from_encoder(
        resolve_encoder(arguments.encoder), ["a", "b"], layer_index=max(arguments.layers)
    )
    extractor = WhisperSerFeatureExtractor(feature_size=model.config.encoder_config.num_mel_bins)
    return lambda: fill(model, extractor, index_audio(files, progress=False), arguments.store, arguments.layers)


def predicting(files: list[str], arguments: argparse.Namespace) -> Callable[[], object]:
    """Returns what `whisper-ser predict --output_dir` does once the model is loaded, in shards of 64."""
    recognizer, options = load_model(arguments.model), ShardOptions()
    process = PartialState()

    def work() -> None:
        shards = shards_of(files, arguments.store, recognizer, options, size=64)
        for shard in shards[process.process_index :: process.num_processes]:
            predict_shard(shard, recognizer, options)
        process.wait_for_everyone()
        if process.is_main_process:
            rows = (
                prediction_row(one, recognizer.labels) for one in read_shards(shards) if isinstance(one, Prediction)
            )
            write_parquet(rows, recognizer.labels, arguments.store / "predictions.parquet")

    return work


if __name__ == "__main__":
    main()
