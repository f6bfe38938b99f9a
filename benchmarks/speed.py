"""How long one trained model takes from waveform to probabilities, for its model card.

    python benchmarks/speed.py outputs/emodb4/model

Writes `speed.json` beside the run's `metrics.json`, from where `push_to_hub.py` puts it on the card. Every repeat
times the runtimes one after the other; the figures are medians. The clips are synthetic voices: time does not depend
on what is said.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from modeling_whisper_ser.packed_encoder_whisper_ser import typical_voices
from transformers.utils import logging

from modeling_whisper_ser import PackingError, WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.io import replacing
from whisper_ser.paper.latency import processor_name

SECONDS = (1, 4, 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder model/ of a run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    extractor = WhisperSerFeatureExtractor.from_pretrained(arguments.model)
    models = runtimes(WhisperForEmotionClassification.from_pretrained(arguments.model).eval())
    rows = []
    for seconds in SECONDS:
        clip = np.resize(typical_voices(extractor.sampling_rate)[0], seconds * extractor.sampling_rate)
        calls = {name: answering(model, extractor, clip) for name, model in models.items()}
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


def runtimes(model: WhisperForEmotionClassification) -> dict[str, WhisperForEmotionClassification]:
    """Returns the model as it is loaded, and packed where this processor can."""
    models = {"as loaded": model}
    for precision in ("float32", "int8"):
        try:
            models[f"packed {precision}"] = model.packed(precision)
        except PackingError as error:
            print(error)
    return models


def answering(
    model: torch.nn.Module, extractor: WhisperSerFeatureExtractor, clip: np.ndarray
) -> Callable[[], torch.Tensor]:
    def answer() -> torch.Tensor:
        with torch.inference_mode():
            features = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="pt")
            return model(**features).logits.softmax(-1)

    return answer


def medians(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Returns the median milliseconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(of_call[1:]) for name, of_call in times.items()}


if __name__ == "__main__":
    main()
