"""Time and memory from waveform to probabilities: ours, stock transformers, ONNX Runtime, CTranslate2.

    python benchmarks/bench_latency.py --encoder path/to/whisper-base --output latency.json
    python benchmarks/bench_latency.py --encoder path/to/whisper-base --seconds 4 --batches 1  # some minutes

Each contestant (see `latency_contestants.py`) lives in a process of its own, as it would at a user's: threads of one
library make those of another wait differently. Every repeat asks all of them one after the other, in another order
each time, so that whatever else the machine does falls on all alike; a call to warm up goes before each that is timed.
Figures are medians of the repeats; only ratios within one run mean something. `times_best_rival` is the median ratio
of the time of the best rival of that precision to ours, repeat by repeat, with its 95% interval (bootstrap over
repeats). Memory is the most that a process holds in a row, beyond what it held with all libraries imported and
nothing loaded.
"""

import argparse
import gc
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from latency_contestants import Clips, Contestant, Run, entrants, recordings
from tqdm import tqdm
from transformers.utils import logging

SETTLE_SECONDS = 0.3
"""Before each measurement: threads of whoever ran before wait busily for up to 0.2 s."""
WARM_UNLESS_LONGER = 0.5
"""Seconds above which a call is long enough not to notice what ran before it, and is not made twice."""
OURS = "ours"
RIVALS = ("onnxruntime", "ctranslate2")
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells memory, and where its peak is set back."""


def main() -> None:
    arguments = parsed()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    if arguments.processor_time:
        arguments.threads = 1
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        contestants = chosen(arguments, Path(arguments.scratch or scratch))
        if arguments.serve is not None:
            serve([one for one in contestants if arguments.serve == title(one)], arguments)
            return
        arguments.scratch = scratch
        figures = []
        for _, group in itertools.groupby(contestants, key=lambda one: one.task):
            figures += timed(list(group), arguments)
    print_tables(figures)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": machine(arguments.threads),
            "clock": "processor" if arguments.processor_time else "wall",
            "encoder": arguments.encoder,
            "figures": figures,
        }
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Latency and memory of ours and of rivals.")
    parser.add_argument("--encoder", required=True, help="Whisper in Hugging Face's layout, such as whisper-base")
    parser.add_argument("--layer_index", type=int, default=3, help="where the cut encoder ends; all are measured, too")
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.5, 1, 2, 4, 8, 15])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tasks", nargs="+", help="such as 'tiny.en, all layers'; all of them by default")
    parser.add_argument("--only", nargs="+", help="contestants by name, without their rivals")
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
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    return parser.parse_args()


def chosen(arguments: argparse.Namespace, scratch: Path) -> list[Contestant]:
    found = entrants(arguments.encoder, arguments.layer_index, arguments.threads, scratch)
    found = [one for one in found if arguments.only is None or one.name in arguments.only]
    return [one for one in found if arguments.tasks is None or one.task in arguments.tasks]


def title(one: Contestant) -> str:
    return f"{one.task}: {one.name}"


def serve(contestants: list[Contestant], arguments: argparse.Namespace) -> None:
    """Answers questions from standard input, one a line: who, seconds and batch; with the time and the peak (MB)."""
    clock = time.process_time if arguments.processor_time else time.perf_counter
    for library in RIVALS:
        if importlib.util.find_spec(library):
            importlib.import_module(library)
    before, runs = resident("VmRSS"), {one.name: one.build() for one in contestants}
    fastest: dict[tuple, float] = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        row = name, seconds, batch = tuple(json.loads(line))
        clips = recordings(seconds, batch)
        if row not in fastest:
            gc.collect()
            if PEAK.exists():
                PEAK.write_text("5")  # the peak starts again from here
        taken = duration(runs[name], clips, fastest.get(row, 0.0), clock)
        fastest[row] = min(taken, fastest.get(row, taken))
        print(json.dumps({"seconds": taken, "peak_mb": resident("VmHWM") - before}), flush=True)


def duration(run: Run, clips: Clips, usual: float, clock: Callable[[], float]) -> float:
    with torch.inference_mode():
        if usual < WARM_UNLESS_LONGER:
            run(clips)
        begin = clock()
        run(clips)
        return clock() - begin


def resident(name: str) -> float:
    """Returns a line of the process's memory in MB; 0 where the system tells none."""
    for line in STATUS.read_text().splitlines() if STATUS.exists() else ():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return 0.0


class Server:
    """A process in which contestants wait for questions."""

    def __init__(self, which: str, scratch: str) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], "--serve", which, "--scratch", scratch]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.process.communicate(timeout=10)  # its questions end, and so does it
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("A contestant's process has ended; why it did stands above.")
        return json.loads(line)

    def ask(self, name: str, seconds: float, batch: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, seconds, batch]) + "\n")
        self.process.stdin.flush()
        return self.answer()


def timed(group: list[Contestant], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the figures of one task: of each contestant in each row."""
    task = group[0].task
    with ExitStack() as stack:
        servers = {}
        for one in tqdm(group, desc=f"{task}: loading", leave=False):
            if one.prepare is not None:
                one.prepare()
            servers[one.name] = stack.enter_context(Server(title(one), arguments.scratch))
            servers[one.name].answer()
        figures = []
        for seconds, batch in itertools.product(arguments.seconds, arguments.batches):
            answers = asked(servers, seconds, batch, f"{task}, {seconds:g} s x {batch}", arguments)
            times = {name: [answer["seconds"] for answer in given] for name, given in answers.items()}
            for one in group:
                taken = times[one.name]
                row = {"seconds": seconds, "batch": batch, "task": task, "name": one.name, "repeats": len(taken)}
                row |= {"median_s": statistics.median(taken), "best_s": min(taken)}
                row["peak_mb"] = max(answer["peak_mb"] for answer in answers[one.name])
                figures.append(row | (against_rivals(times, one.name) if one.name.startswith(OURS) else {}))
    return figures


def against_rivals(times: dict[str, list[float]], ours: str) -> dict[str, Any]:
    """Returns how many times as fast as the best rival of its precision ours is, with the median's 95% interval."""
    precision = ours.split()[1]
    rivals = {name: taken for name, taken in times.items() if name.split()[0] in RIVALS and precision in name}
    if not rivals:
        return {}
    best = min(rivals, key=lambda name: statistics.median(rivals[name]))
    ratios = [theirs / own for theirs, own in zip(rivals[best], times[ours], strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {"best_rival": best, "times_best_rival": statistics.median(ratios), "interval": [medians[50], medians[-51]]}


def asked(
    servers: dict[str, Server], seconds: float, batch: int, row: str, arguments: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Returns the answers of each contestant to the questions of one row."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    order, end = list(servers), time.perf_counter() + arguments.row_seconds
    for repeat in tqdm(range(arguments.repeats), desc=row, leave=False):
        random.Random(repeat).shuffle(order)
        for name in order:
            time.sleep(SETTLE_SECONDS)
            answers[name].append(servers[name].ask(name, seconds, batch))
        if repeat >= 2 and time.perf_counter() > end:
            break
    return answers


def print_tables(figures: list[dict[str, Any]]) -> None:
    """Prints milliseconds a clip, how many times as fast as transformers, and how ours compares to the best rival."""
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
        for name in names:
            if name.startswith(OURS):
                found = " | ".join(compared(group, name) for group in rows.values())
                print(f"| {name} to the best rival | {found} |")


def cell(group: list[dict[str, Any]], name: str) -> str:
    by_name = {row["name"]: row for row in group}
    if name not in by_name:
        return "-"
    row, reference = by_name[name], by_name.get("transformers window")
    text = f"{1000 * row['median_s'] / row['batch']:.1f}"
    notes = [] if reference is None or row is reference else [f"{reference['median_s'] / row['median_s']:.1f}x"]
    notes += [f"{row['peak_mb']:.0f} MB"] if row.get("peak_mb") else []
    return f"{text} ({'; '.join(notes)})" if notes else text


def compared(group: list[dict[str, Any]], name: str) -> str:
    row = next((row for row in group if row["name"] == name and "times_best_rival" in row), None)
    if row is None:
        return "-"
    low, high = row["interval"]
    return f"{row['times_best_rival']:.2f} ({low:.2f} to {high:.2f})"


def machine(threads: int) -> dict[str, Any]:
    """Returns what the figures were taken on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("model name", "flags"))]
    flags = cpu[1].split() if len(cpu) > 1 else []
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    for library in ("transformers", *RIVALS):
        if importlib.util.find_spec(library):
            versions[library] = importlib.metadata.version(library)
    return {
        "processor": cpu[0].split(":")[1].strip() if cpu else platform.processor(),
        "instructions": [flag for flag in flags if flag.startswith(("avx512", "amx", "avx2", "avx_vnni"))],
        "threads": threads,
        "versions": versions,
    }


if __name__ == "__main__":
    main()
