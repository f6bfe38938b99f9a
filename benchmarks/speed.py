"""How long one trained model takes from waveform to probabilities, for its model card.

    python benchmarks/speed.py outputs/emodb4/model

Writes `speed.json` beside the run's `metrics.json`, from where `push_to_hub.py` puts it on the card. Every repeat
times the runtimes one after the other; the figures are medians. The clips are synthetic voices: time does not depend
on what is said.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from whisper_ser.inference.model import load_model, load_saved
from whisper_ser.inference.reference_waveform import VOICES, describe_waveform, waveform
from whisper_ser.io import replacing

SECONDS = (1, 4, 30)
Answer = Callable[[np.ndarray], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder model/ of a run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    answers = runtimes(arguments.model)
    rate = load_model(arguments.model, "cpu").sampling_rate
    voice = waveform(describe_waveform(VOICES[0], rate))
    rows = []
    for seconds in SECONDS:
        clip = np.resize(voice, seconds * rate)
        calls = {name: functools.partial(answer, clip) for name, answer in answers.items()}
        for name, milliseconds in medians(calls, arguments.repeats).items():
            rows.append({"runtime": name, "seconds": seconds, "milliseconds": round(milliseconds, 1)})
            print(f"{name:<16}{seconds:>4} s{milliseconds:>9.1f} ms")
    content = {
        "device": processor_name(),
        "threads": arguments.threads,
        "command": "python benchmarks/speed.py",
        "rows": rows,
    }
    target = arguments.model.parent / "speed.json"
    with replacing(target) as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"Written: {target}")


def runtimes(folder: Path) -> dict[str, Answer]:
    """Returns the model by the stock classes, and as this package runs it on a CPU."""
    model, extractor = load_saved(folder)

    @torch.inference_mode()
    def by_torch(clip: np.ndarray) -> torch.Tensor:
        features = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return model.eval()(**features).logits.softmax(-1)

    engine = load_model(folder, "cpu")
    return {"transformers": by_torch, "ONNX Runtime": lambda clip: engine.probabilities([clip])}


def medians(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Returns the median milliseconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(of_call[1:]) for name, of_call in times.items()}


def processor_name() -> str:
    """Returns what the processor calls itself, or its architecture where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or f"{platform.machine()} CPU"


if __name__ == "__main__":
    main()
