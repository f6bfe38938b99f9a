"""What ONNX Runtime keeps and gains: size, time and accuracy of one model in torch, as we run it, and exported.

    python benchmarks/onnx_export.py --model outputs/emodb4/model --data_dir path/to/emodb4 --test_speakers 15 16

Every form answers every clip alone, waveform to probabilities, front end included. Accuracy is that on the speakers
named; agreement with plain torch is counted over all clips, those the model was trained on, too. Every repeat of the
timing calls all forms one after the other, in another order each time; only ratios within one run mean something.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from tqdm import tqdm
from transformers.utils import logging

from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.corpora.table import load_table
from whisper_ser.export.onnx import export_onnx
from whisper_ser.inference.engines.exported import ExportedModel
from whisper_ser.inference.model import load_model, load_saved

SETTLE_SECONDS = 0.3
"""Before each measurement: threads of whoever ran before wait busily for up to 0.2 s."""
TORCH, ENGINE, EXPORTED = "torch", "ours", "exported"
Answer = Callable[[np.ndarray], np.ndarray]
"""From a waveform `(samples,)` to probabilities `(labels,)`."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Size, time and accuracy of an exported model.")
    parser.add_argument("--model", required=True, help="folder or Hub id of a trained model")
    parser.add_argument("--data_dir", required=True, help="a folder with a metadata.csv")
    parser.add_argument("--test_speakers", nargs="+", required=True, help="those the model has not heard")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4.0, help="of the clip that is timed")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--processor_time", action="store_true", help="where others use the machine; with one thread")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.processor_time:
        arguments.threads = [1]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    corpus = load_table(arguments.data_dir)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.onnx"
        sizes = {EXPORTED: export_onnx(arguments.model, file).size}
        answers = forms(arguments.model, file, max(arguments.threads))
        figures = accuracies(answers, corpus, ExportedModel(file).labels, arguments.test_speakers)
        clip = joined(corpus["path"], arguments.seconds)
        for threads in arguments.threads:
            times = timed(forms(arguments.model, file, threads), clip, threads, arguments)
            for name, seconds in times.items():
                figures[name].setdefault("median_s", {})[threads] = seconds
    folder = Path(arguments.model)
    if folder.is_dir():
        sizes[TORCH] = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    for name, size in sizes.items():
        figures[name]["bytes"] = size
    print_table(figures, arguments)
    if arguments.output:
        versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
        content = {"seconds": arguments.seconds, "versions": versions, "figures": figures}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


def forms(name: str, file: Path, threads: int) -> dict[str, Answer]:
    """Returns the forms of the model, torch's first."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    model, extractor = load_saved(name)

    @torch.inference_mode()
    def by_torch(clip: np.ndarray) -> np.ndarray:
        features = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return model.eval()(**features).logits[0].softmax(-1).numpy()

    engine, exported = load_model(name, "cpu"), ExportedModel(file, threads)
    return {
        TORCH: by_torch,
        ENGINE: lambda clip: engine.probabilities([clip])[0],
        EXPORTED: lambda clip: exported.probabilities([clip])[0],
    }


def accuracies(
    answers: dict[str, Answer], corpus: Any, labels: list[str], test_speakers: list[str]
) -> dict[str, dict[str, Any]]:
    """Returns accuracy on the test speakers and agreement with torch on all clips, by form."""
    given = {name: [] for name in answers}  # type: dict[str, list[np.ndarray]]
    for path in tqdm(corpus["path"], desc="clips", leave=False):
        clip = read_audio(path)
        for name, answer in answers.items():
            given[name].append(answer(clip))
    test = np.isin(corpus["speaker"], test_speakers)
    if not test.any():
        raise SystemExit(f"None of the speakers {' '.join(test_speakers)} is in the corpus.")
    names = corpus.features["emotion"].names
    truth = np.array([labels.index(names[emotion]) for emotion in corpus["emotion"]])
    figures = {}
    expected = np.stack(given[TORCH])
    for name, rows in given.items():
        found = np.stack(rows)
        answered = found.argmax(1)
        off = np.abs(found - expected).max(1)
        figures[name] = {
            "ua": float(balanced_accuracy_score(truth[test], answered[test])),
            "wa": float(accuracy_score(truth[test], answered[test])),
            "test_clips": int(test.sum()),
            "agree": int((answered == expected.argmax(1)).sum()),
            "clips": len(truth),
            "largest_difference": float(off.max()),
            "mean_difference": float(off.mean()),
        }
    return figures


def joined(paths: list[str], seconds: float) -> np.ndarray:
    """Returns the first clips, one after another, until `seconds` are full."""
    samples, parts = round(seconds * 16000), []  # type: tuple[int, list[np.ndarray]]
    for path in paths:
        parts.append(read_audio(path))
        if sum(map(len, parts)) >= samples:
            break
    return np.concatenate(parts)[:samples]


def timed(answers: dict[str, Answer], clip: np.ndarray, threads: int, arguments: Any) -> dict[str, float]:
    """Returns the median seconds of each form."""
    clock = time.process_time if arguments.processor_time else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in answers}
    order = list(answers)
    for repeat in tqdm(range(arguments.repeats), desc=f"{threads} threads", leave=False):
        random.Random(repeat).shuffle(order)
        for name in order:
            time.sleep(SETTLE_SECONDS)
            answers[name](clip)  # what ran before has taken the caches
            begin = clock()
            answers[name](clip)
            times[name].append(clock() - begin)
    return {name: statistics.median(taken) for name, taken in times.items()}


def print_table(figures: dict[str, dict[str, Any]], arguments: Any) -> None:
    counts = figures[TORCH]
    print(
        f"\nUA on {counts['test_clips']} clips of speakers {', '.join(arguments.test_speakers)}; agreement with torch "
        f"on {counts['clips']} clips; milliseconds for {arguments.seconds:g} s (times as fast as torch)\n"
    )
    columns = [f"{threads} threads" if threads > 1 else "1 thread" for threads in arguments.threads]
    print("| form | MB | UA | WA | agree | largest difference | mean | " + " | ".join(columns) + " |")
    print("| --- |" * 1 + " --- |" * (6 + len(columns)))
    for name, row in figures.items():
        size = f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else "-"
        times = [
            f"{1000 * row['median_s'][threads]:.1f} ({counts['median_s'][threads] / row['median_s'][threads]:.2f})"
            for threads in arguments.threads
        ]
        print(
            f"| {name} | {size} | {100 * row['ua']:.1f} | {100 * row['wa']:.1f} | {row['agree']} | "
            f"{row['largest_difference']:.1e} | {row['mean_difference']:.1e} | {' | '.join(times)} |"
        )


if __name__ == "__main__":
    main()
