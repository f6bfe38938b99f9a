"""Time and memory from waveform to probabilities: ours, stock transformers, ONNX Runtime, CTranslate2, and the floor.

    python benchmarks/bench_latency.py --encoder path/to/whisper-base --output latency.json
    python benchmarks/bench_latency.py --encoder path/to/whisper-base --seconds 4 --batches 1 --no_memory  # a minute

Every repeat times all contestants one after the other, in another order each time, so that whatever else the machine
does falls on all alike. Figures are medians of the repeats; only ratios within one run mean something.

Rivals have what they gain from: as many threads, all graph optimisations, their weights packed, a call to warm up
before each that is timed. "spoken" are the chunks of spoken frames that ours encodes, to the same lengths; "window" is
the 30 s that stock Whisper wants. ONNX Runtime runs what `whisper-ser export onnx` writes, waveform to probabilities.
CTranslate2 gets our log-mel and stops at the encoder's states; it has no cut encoder, and is compared on all layers of
tiny.en, whose file it reads. transformers hears the first 30 s of longer audio, the others all of it.

The floor is the multiplications of the encoder divided by the best rate at which packed matrices are multiplied in the
same run, precision and number of threads.
"""

import argparse
import functools
import gc
import itertools
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import WhisperFeatureExtractor, WhisperForAudioClassification
from transformers.utils import logging

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from modeling_whisper_ser.encoder_whisper_ser import WhisperSerEncoder, even_chunks
from modeling_whisper_ser.packed_encoder_whisper_ser import typical_voices
from whisper_ser.checkpoints import DEMO_ENCODER, resolve_encoder
from whisper_ser.inference.recognizer import Recognizer
from whisper_ser.inference.speed import optimised

RATE = 16000
WINDOW_SECONDS = 30
LABELS = ["angry", "happy", "neutral", "sad"]
SETTLE_SECONDS = 0.3
"""Before each measurement: threads of whoever ran before wait busily for up to 0.2 s."""
WARM_UNLESS_LONGER = 0.5
"""Seconds above which a call is long enough not to notice what ran before it, and is not made twice."""
Clips = list[np.ndarray]


@dataclass(frozen=True)
class Contestant:
    """One way to answer: `build` returns a function from waveforms `(samples,)` to whatever it gives."""

    task: str
    name: str
    build: Callable[[], Callable[[Clips], Any]]


def main() -> None:
    arguments = parsed()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    if arguments.processor_time:
        arguments.threads = 1
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        contestants = [one for one in entrants(arguments, Path(scratch)) if arguments.only in (None, one.name)]
        contestants = [one for one in contestants if one.task in (arguments.tasks or [one.task])]
        if arguments.memory_of is not None:
            (one,) = [one for one in contestants if [one.task, one.name] == arguments.memory_of]
            print(json.dumps(peak_memory(one, arguments)))
            return
        figures = [
            {"seconds": seconds, "batch": batch, **row}
            for seconds, batch in itertools.product(arguments.seconds, arguments.batches)
            for row in timed(contestants, seconds, batch, arguments)
        ]
        if not arguments.no_memory:
            add_memory(figures, contestants, arguments)
    print_tables(figures)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        clock = "processor" if arguments.processor_time else "wall"
        content = {
            "machine": machine(arguments.threads),
            "clock": clock,
            "encoder": arguments.encoder,
            "figures": figures,
        }
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Latency and memory of ours and of rivals.")
    parser.add_argument("--encoder", required=True, help="Whisper in Hugging Face's layout, such as whisper-base")
    parser.add_argument("--layer_index", type=int, default=3, help="where the cut encoder ends; all are measured, too")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 2, 4, 8, 15, 30, 120])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tasks", nargs="+", help="such as 'tiny.en, all layers'; all of them by default")
    parser.add_argument("--only", help="one contestant by name, without its rivals")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--row_seconds", type=float, default=40, help="end repeats of a row then, after three at least"
    )
    parser.add_argument(
        "--processor_time",
        action="store_true",
        help="time that the process has had a core, of one thread, instead of wall time: where others use the machine",
    )
    parser.add_argument("--no_memory", action="store_true", help="times only")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--memory_of", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def entrants(arguments: argparse.Namespace, scratch: Path) -> list[Contestant]:
    """Returns who takes part; nothing is loaded yet."""
    threads, layer = arguments.threads, arguments.layer_index
    found = []
    for task, encoder, index in (
        (f"{Path(arguments.encoder).name}, layer {layer}", arguments.encoder, layer),
        (f"{Path(arguments.encoder).name}, all layers", arguments.encoder, None),
    ):
        found += [Contestant(task, "transformers window", lambda e=encoder: stock(e)), *own(task, encoder, index)]
        for precision, frames in itertools.product(("float32", "int8"), ("spoken", "window")):
            found.append(
                Contestant(
                    task,
                    f"onnxruntime {precision} {frames}",
                    lambda e=encoder, i=index, p=precision, f=frames: onnxruntime(e, i, p, f, threads, scratch),
                )
            )
    task = "tiny.en, all layers"
    found += own(task, DEMO_ENCODER, None)
    for precision, frames in itertools.product(("float32", "int8"), ("spoken", "window")):
        name = f"ctranslate2 {precision} {frames}"
        found.append(Contestant(task, name, lambda p=precision, f=frames: ctranslate2(p, f, threads)))
        name = f"onnxruntime {precision} {frames}"
        found.append(
            Contestant(
                task, name, lambda p=precision, f=frames: onnxruntime(DEMO_ENCODER, None, p, f, threads, scratch)
            )
        )
    return found


def own(task: str, encoder: str, layer: int | None) -> list[Contestant]:
    return [
        Contestant(task, f"ours {precision}", lambda p=precision: ours(encoder, layer, p))
        for precision in ("plain", "float32", "int8")
    ]


def cut_model(encoder: str, layer: int | None, **fields: Any) -> WhisperForEmotionClassification:
    """Returns a model up to `layer`, all layers by default, with a head of random weights."""
    torch.manual_seed(0)
    folder = resolve_encoder(encoder)
    if layer is None:
        layer = WhisperForEmotionClassification.from_encoder(folder, LABELS).config.encoder_config.encoder_layers
    return WhisperForEmotionClassification.from_encoder(folder, LABELS, layer_index=layer, **fields).eval()


def ours(encoder: str, layer: int | None, precision: str) -> Callable[[Clips], Any]:
    plain = cut_model(encoder, layer)
    model = plain if precision == "plain" else optimised(plain, precision)
    extractor = WhisperSerFeatureExtractor(feature_size=model.config.encoder_config.num_mel_bins)

    @torch.inference_mode()
    def run(clips: Clips) -> torch.Tensor:
        features = extractor(clips, sampling_rate=RATE, return_tensors="pt")
        return model(**features).logits.softmax(-1)

    return run


def stock(encoder: str) -> Callable[[Clips], Any]:
    model = WhisperForAudioClassification.from_pretrained(encoder, num_labels=len(LABELS), dtype=torch.float32).eval()
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)

    @torch.inference_mode()
    def run(clips: Clips) -> torch.Tensor:
        features = extractor(clips, sampling_rate=RATE, return_tensors="pt")
        return model(**features).logits.softmax(-1)

    return run


def onnxruntime(
    encoder: str, layer: int | None, precision: str, frames: str, threads: int, scratch: Path
) -> Callable[[Clips], Any]:
    from whisper_ser.export.onnx_file import export_onnx
    from whisper_ser.export.runner import OnnxModel

    window = WINDOW_SECONDS if frames == "window" else None
    file = scratch / f"{Path(encoder).name}-{layer}-{precision}-{frames}.onnx"
    if not file.exists():
        model = cut_model(encoder, layer, **({} if window is None else {"chunk_seconds": window}))
        mels = model.config.encoder_config.num_mel_bins
        extractor = WhisperSerFeatureExtractor(feature_size=mels, pad_to_seconds=window)
        export_onnx(Recognizer(model, extractor), file, precision)
    exported = OnnxModel(file, threads)
    return lambda clips: exported.probabilities(clips if window is None else windows(clips))


def ctranslate2(precision: str, frames: str, threads: int) -> Callable[[Clips], Any]:
    import ctranslate2 as engine

    folder = resolve_encoder(DEMO_ENCODER)
    whisper = engine.models.Whisper(folder, device="cpu", compute_type=precision, intra_threads=threads)
    model = cut_model(DEMO_ENCODER, None)

    def states(mels: np.ndarray) -> np.ndarray:
        mels = np.ascontiguousarray(mels.transpose(0, 2, 1))
        return np.asarray(whisper.encode(engine.StorageView.from_array(mels)))

    agree(states, model.whisper_ser.encoder, precision)
    return in_equal_chunks(model, frames, states)


def agree(states: Callable[[np.ndarray], np.ndarray], encoder: WhisperSerEncoder, precision: str) -> None:
    """Raises if a rival computes something else than our plain encoder."""
    extractor = WhisperSerFeatureExtractor(feature_size=encoder.conv1.in_channels)
    features = extractor(typical_voices(RATE)[0], return_tensors="pt")
    with torch.inference_mode():
        expected = encoder(**features)[0][0, 0].numpy()
    difference = np.linalg.norm(states(features["input_features"].numpy())[0] - expected) / np.linalg.norm(expected)
    if difference > (0.001 if precision == "float32" else 0.25):
        raise RuntimeError(f"A rival's states are off by {difference:.1%}: the comparison would be unfair.")


def in_equal_chunks(
    model: WhisperForEmotionClassification, frames: str, states: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Clips], Any]:
    """Returns a function that encodes what ours does: rivals have no mask, and get chunks of one length together."""
    mels = model.config.encoder_config.num_mel_bins
    window = frames == "window"
    longest = WINDOW_SECONDS * 50 if window else model.config.chunk_frames
    extractor = WhisperSerFeatureExtractor(feature_size=mels, pad_to_seconds=WINDOW_SECONDS if window else None)

    def run(clips: Clips) -> list[np.ndarray]:
        features = extractor(windows(clips) if window else clips, sampling_rate=RATE, return_tensors="np")
        lengths = features["attention_mask"].sum(1)
        chunks = [
            clip[2 * start : 2 * (start + size)][:length]
            for clip, length in zip(features["input_features"], lengths, strict=True)
            for start, size in even_chunks(-(-int(length) // 2), longest)
        ]
        chunks.sort(key=len)
        return [states(np.stack(list(group))) for _, group in itertools.groupby(chunks, key=len)]

    return run


def windows(clips: Clips) -> Clips:
    """Returns the clips cut every 30 s."""
    step = WINDOW_SECONDS * RATE
    return [clip[begin : begin + step] for clip in clips for begin in range(0, len(clip), step)]


def recordings(seconds: float, batch: int) -> Clips:
    """Returns voice-like waveforms, no two alike."""
    voices = np.concatenate(typical_voices(RATE))
    samples = round(seconds * RATE)
    endless = np.tile(voices, -(-(samples + batch * RATE) // len(voices)))
    return [endless[index * RATE : index * RATE + samples] for index in range(batch)]


def timed(
    contestants: list[Contestant], seconds: float, batch: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Returns one figure for each contestant, in seconds, and the floors."""
    clips, clock = recordings(seconds, batch), time.process_time if arguments.processor_time else time.perf_counter
    rows = []
    for task, group in itertools.groupby(contestants, key=lambda one: one.task):
        runs = {one.name: one.build() for one in group}
        rates = products()
        times: dict[str, list[float]] = {name: [] for name in [*runs, *rates]}
        order, end = [*runs, *rates], time.perf_counter() + arguments.row_seconds
        shown = tqdm(range(arguments.repeats), desc=f"{task}, {seconds:g} s x {batch}", leave=False)
        for repeat in shown:
            random.Random(repeat).shuffle(order)
            for name in order:
                call = rates[name][1] if name in rates else functools.partial(runs[name], clips)
                times[name].append(duration(call, times[name], clock))
            if repeat >= 2 and time.perf_counter() > end:
                break
        medians = {name: statistics.median(taken) for name, taken in times.items()}
        for name in runs:
            rows.append({"task": task, "name": name, "median_s": medians[name], "best_s": min(times[name])})
        rows += floors(task, arguments, seconds, batch, {n: rates[n][0] / medians[n] for n in rates})
        for row in rows:
            row.setdefault("repeats", len(times[order[0]]))
        del runs
        gc.collect()
    return rows


def duration(call: Callable[[], Any], before: list[float], clock: Callable[[], float]) -> float:
    time.sleep(SETTLE_SECONDS)
    with torch.inference_mode():
        if not before or min(before) < WARM_UNLESS_LONGER:
            call()
        begin = clock()
        call()
        return clock() - begin


def products() -> dict[str, tuple[float, Callable[[], Any]]]:
    """Returns products of packed matrices, by precision and shape: operations of one call, and the call."""
    from modeling_whisper_ser.packed_encoder_whisper_ser import Scale, _FloatProduct, _IntegerProduct

    found: dict[str, tuple[float, Callable[[], Any]]] = {}
    for rows, inner, outer in ((200, 512, 2048), (1600, 512, 2048), (1600, 2048, 512)):
        weight, bias, x = torch.randn(outer, inner), torch.zeros(outer), torch.randn(rows, inner)
        operations, shape = 2.0 * rows * inner * outer, f"{rows}x{inner}x{outer}"
        packed = _FloatProduct(weight, bias)
        found[f"float32 {shape}"] = operations, lambda p=packed, x=x: p(x)
        found[f"float32 plain {shape}"] = operations, lambda w=weight, b=bias, x=x: nn.functional.linear(x, w, b)
        if torch.cpu._is_vnni_supported():
            integers, bytes_ = _IntegerProduct(weight, bias, Scale.of(-4, 4)), (x * 32 + 128).clamp(0, 255).byte()
            found[f"int8 {shape}"] = operations, lambda p=integers, x=bytes_: p(x)
    return found


def floors(
    task: str, arguments: argparse.Namespace, seconds: float, batch: int, rates: dict[str, float]
) -> list[dict[str, Any]]:
    """Returns how long the multiplications alone take at the best rate of each precision."""
    encoder, layer = (DEMO_ENCODER, None) if task.startswith("tiny.en") else (arguments.encoder, arguments.layer_index)
    model = cut_model(encoder, None if task.endswith("all layers") else layer)
    config, layers = model.config.encoder_config, model.config.layer_index
    width, wide, mels = config.d_model, config.encoder_ffn_dim, config.num_mel_bins
    chunks = [size for _, size in even_chunks(round(seconds * 50), model.config.chunk_frames)]
    frames = sum(chunks)
    products_ = frames * (2 * 3 * mels * width + 3 * width * width + layers * (4 * width * width + 2 * width * wide))
    attention = layers * sum(2 * size * size * width for size in chunks)
    rows = []
    for precision in ("float32", "int8"):
        best = max((rate for name, rate in rates.items() if name.startswith(precision)), default=None)
        if best is not None:
            found = {"task": task, "name": f"floor {precision}", "operations_per_second": best}
            # Attention and the first convolution are float32 in ours, too: the floor of int8 is one of int8 alone.
            rows.append({**found, "median_s": 2.0 * batch * (products_ + attention) / best})
    return rows


def add_memory(figures: list[dict[str, Any]], contestants: list[Contestant], arguments: argparse.Namespace) -> None:
    """Adds how much memory each contestant takes, measured in a process of its own."""
    for one in tqdm(contestants, desc="memory", leave=False):
        command = [sys.executable, __file__, *sys.argv[1:], "--memory_of", one.task, one.name]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks = {(row["seconds"], row["batch"]): row for row in json.loads(answer.splitlines()[-1])}
        for row in figures:
            if (row["task"], row["name"]) == (one.task, one.name):
                row.update(peaks[row["seconds"], row["batch"]])


def peak_memory(one: Contestant, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns for each row the most memory (MB) beyond what the process holds before anything of `one` is loaded."""
    before = resident("VmRSS")
    run = one.build()
    loaded, rows = resident("VmRSS"), []
    for seconds, batch in itertools.product(arguments.seconds, arguments.batches):
        clips = recordings(seconds, batch)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        with torch.inference_mode():
            run(clips)
        row = {"seconds": seconds, "batch": batch, "loaded_mb": loaded - before}
        rows.append({**row, "peak_mb": resident("VmHWM") - before})
    return rows


def resident(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}: memory is measured on Linux only; give --no_memory.")


def print_tables(figures: list[dict[str, Any]]) -> None:
    """Prints milliseconds a clip, how many times faster than transformers, and the share of the floor."""
    key = lambda row: (row["task"], row["seconds"], row["batch"])  # noqa: E731
    tasks = dict.fromkeys(row["task"] for row in figures)
    for task in tasks:
        print(f"\n{task}: ms a clip (times as fast as transformers, where there; peak MB)\n")
        rows = {k: list(group) for k, group in itertools.groupby(sorted(figures, key=key), key=key) if k[0] == task}
        names = list(dict.fromkeys(row["name"] for group in rows.values() for row in group))
        print("| contestant | " + " | ".join(f"{seconds:g} s x {batch}" for _, seconds, batch in rows) + " |")
        print("| --- |" + " --- |" * len(rows))
        for name in names:
            print(f"| {name} | " + " | ".join(cell(group, name) for group in rows.values()) + " |")


def cell(group: list[dict[str, Any]], name: str) -> str:
    by_name = {row["name"]: row for row in group}
    if name not in by_name:
        return "-"
    row, reference = by_name[name], by_name.get("transformers window")
    text = f"{1000 * row['median_s'] / row['batch']:.1f}"
    notes = [] if reference is None or row is reference else [f"{reference['median_s'] / row['median_s']:.1f}x"]
    notes += [f"{row['peak_mb']:.0f} MB"] if "peak_mb" in row else []
    return f"{text} ({'; '.join(notes)})" if notes else text


def machine(threads: int) -> dict[str, Any]:
    """Returns what the figures were taken on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("model name", "flags"))]
    flags = cpu[1].split() if len(cpu) > 1 else []
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    for module in ("transformers", "onnxruntime", "ctranslate2"):
        if module in sys.modules:
            versions[module] = sys.modules[module].__version__
    return {
        "processor": cpu[0].split(":")[1].strip() if cpu else platform.processor(),
        "instructions": [flag for flag in flags if flag.startswith(("avx512", "amx", "avx2", "avx_vnni"))],
        "threads": threads,
        "versions": versions,
    }


if __name__ == "__main__":
    main()
