"""What a cross-validation costs: wall time and memory of 5 folds of speakers x 30 epochs, ours against other ways.

- ours: the states of the spoken frames from the feature store, through `whisper_ser.training.cross_validation`;
  also with `frame_averaging`, which is another model.
- one file an utterance: the states of the 30 s window, 1,500 frames, loaded from one file per utterance for every
  batch of every epoch, as the paper's released code does; the same head, a bare loop around it.
- encoder every epoch: the stock Trainer on `WhisperForAudioClassification` with its encoder frozen, which is run anew
  for every batch; extrapolated from three steps.

Every way runs in a process of its own, with states and log-mels prepared before the clock starts. Memory is the
highest proportional set size of all its processes, less that of one that has only imported its libraries.

    python benchmarks/bench_training.py --data_dir path/to/emodb4 --encoder path/to/whisper-base --layers 3
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments, WhisperConfig, WhisperForAudioClassification

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.audio_index import index_audio
from whisper_ser.data.leakage import audit
from whisper_ser.data.splits import Fold, folds
from whisper_ser.training.data import load
from whisper_ser.training.experiment import Experiment, train_grid
from whisper_ser.training.models import build_model
from whisper_ser.training.recipe import parse_arguments
from whisper_ser.training.settings import Arguments
from whisper_ser.training.trainer import prepare_inputs

FOLDS = 5
BATCH = 16
STEPS_TRIED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description="Wall time and memory of a cross-validation.")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--layers", default="3")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument(
        "--rival_epochs", type=int, default=2, help="epochs of the rival that are run; more are scaled"
    )
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = f"--data_dir {given.data_dir} --encoder {given.encoder} --layers {given.layer_index}"
        recipe = f"--protocol speaker_groups --num_groups {FOLDS} --num_train_epochs {given.epochs}"
        common = [*run.split(), *recipe.split(), "--input_dropout", "0.3", "--feature_dir", f"{folder}/features"]
        averaged = ["--frame_averaging", "5"]
        rows = [
            measured(ours, "ours", [*common, "--output_dir", f"{folder}/all"], folder),
            measured(ours, "ours, 5 frames averaged", [*common, *averaged, "--output_dir", f"{folder}/5"], folder),
            measured(one_file_an_utterance, "one file an utterance", common, folder, given.rival_epochs),
            measured(encoder_every_epoch, "encoder every epoch", common, folder),
        ]
    report(rows, given)


def ours(arguments: Arguments, parts: list[Fold], folder: str) -> Callable[[], float]:
    records = index_audio(sorted({path for part in parts[0].split for path in part["path"]}), progress=False)
    experiment = Experiment(arguments, arguments.data.protocol, parts, records, audit(parts, records), [])
    model, extractor = build_model(arguments.model, labels_of(parts))
    prepare_inputs(model, extractor, records, Path(arguments.data.feature_dir))

    def run() -> float:
        train_grid(experiment, experiment.points())
        return 1.0

    return run


def one_file_an_utterance(arguments: Arguments, parts: list[Fold], folder: str, epochs: int) -> Callable[[], float]:
    paper = replace(arguments.model, pad_to_seconds=30.0, chunk_seconds=30.0)
    model, extractor = build_model(paper, labels_of(parts))
    files: dict[str, Path] = {}
    for number, path in enumerate({path for part in parts[0].split for path in part["path"]}):
        features = extractor(read_audio(path), sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            states, _ = model.whisper_ser.encode(**features)
        files[path] = Path(folder) / f"{number}.npy"
        np.save(files[path], states[0].numpy())

    def batches(part: Dataset, shuffle: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(part)) if shuffle else torch.arange(len(part))
        paths, labels = part["path"][:], torch.tensor(part["emotion"][:])
        for rows in order.split(BATCH):
            yield torch.from_numpy(np.stack([np.load(files[paths[row]]) for row in rows])), labels[rows]

    def run() -> float:
        for fold in parts:
            head = WhisperForEmotionClassification(model.config).train()
            trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
            for _ in range(epochs):
                head.train()
                for states, labels in batches(fold.split.train, shuffle=True):
                    head(encoder_hidden_states=states, labels=labels).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                head.eval()
                with torch.inference_mode():
                    for states, _ in batches(fold.split.test, shuffle=False):
                        head(encoder_hidden_states=states)
        return arguments.training.num_train_epochs / epochs

    return run


def encoder_every_epoch(arguments: Arguments, parts: list[Fold], folder: str) -> Callable[[], float]:
    _, extractor = build_model(replace(arguments.model, pad_to_seconds=30.0, chunk_seconds=30.0), labels_of(parts))
    part = parts[0].split.train
    config = WhisperConfig.from_pretrained(arguments.model.encoder, num_labels=len(labels_of(parts)))
    # Time does not depend on the weights.
    model = WhisperForAudioClassification(config)
    model.freeze_encoder()
    labelled = list(zip(part["path"][:], part["emotion"][:], strict=True))[: BATCH * STEPS_TRIED]
    examples = [{"input_features": features_of(path, extractor), "labels": label} for path, label in labelled]
    settings = TrainingArguments(
        f"{folder}/stock",
        per_device_train_batch_size=BATCH,
        max_steps=STEPS_TRIED,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(model, settings, train_dataset=examples)
    steps = sum(-(-len(fold.split.train) // BATCH) for fold in parts) * arguments.training.num_train_epochs

    def run() -> float:
        trainer.train()
        return steps / STEPS_TRIED

    return run


def features_of(path: str, extractor: WhisperSerFeatureExtractor) -> np.ndarray:
    """Returns what the stock model reads: log-mel `(mels, mel_frames)` of 30 s."""
    return extractor(read_audio(path), sampling_rate=16000, return_tensors="np")["input_features"][0].T.copy()


def labels_of(parts: list[Fold]) -> list[str]:
    return parts[0].split.train.features["emotion"].names


def measured(way: Callable[..., Callable[[], float]], name: str, flags: list[str], *more: Any) -> dict[str, Any]:
    """Returns the figures of one way, run in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(sender, way, flags, more))
    process.start()
    sender.close()
    try:
        return {"way": name, **receiver.recv()}
    finally:
        process.join()


def _measure(sender: Any, way: Callable[..., Callable[[], float]], flags: list[str], more: tuple) -> None:
    arguments = parse_arguments(flags)
    imported = memory()
    parts = folds(load(arguments.data), arguments.data.protocol, num_groups=arguments.data.num_groups)
    run = way(arguments, parts, *more)
    with watched() as peak:
        start = time.perf_counter()
        scale = run()
        seconds = time.perf_counter() - start
    sender.send({"seconds": seconds * scale, "scaled_by": scale, "megabytes": (peak[0] - imported) / 1e6})


def memory() -> int:
    """Returns the proportional set size in bytes of this process and those it started."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # ended meanwhile
            continue
    return total


@contextmanager
def watched(every: float = 0.25) -> Iterator[list[int]]:
    """Yields a list whose only item is the highest `memory` so far."""
    peak, ended = [memory()], threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            peak[0] = max(peak[0], memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def report(rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    first = rows[0]
    print(
        f"\n{FOLDS} folds x {given.epochs} epochs, {Path(given.data_dir).name}, {Path(given.encoder).name}, ", end=""
    )
    print(f"layer {given.layer_index}, {torch.get_num_threads()} threads\n")
    print("| way | seconds | ours is faster by | MB over the libraries | of ours |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        scaled = "" if row["scaled_by"] == 1 else f" (scaled by {row['scaled_by']:.0f})"
        print(
            f"| {row['way']} | {row['seconds']:.0f}{scaled} | {row['seconds'] / first['seconds']:.1f}x | "
            f"{row['megabytes']:.0f} | {row['megabytes'] / first['megabytes']:.1f}x |"
        )
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
