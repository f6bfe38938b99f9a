"""`whisper-ser predict --output_dir`: very many recordings in resumable shards, by one process or several."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from accelerate import PartialState
from tqdm import tqdm

from whisper_ser.commands.printing import report, write_lines
from whisper_ser.commands.recordings import load_quietly
from whisper_ser.errors import InferenceError
from whisper_ser.inference.formats import failure_object, json_text
from whisper_ser.inference.inputs import STANDARD_INPUT, audio_files
from whisper_ser.inference.model import Answering, Recognizer, is_exported, packed
from whisper_ser.inference.outputs import Failure, Prediction
from whisper_ser.inference.sharded import SHARD_FILES, Question, Shard, answer, answers, shards_of

FORMATS = ("parquet", "csv", "jsonl")
TERMINATED = 128 + signal.SIGTERM

Write = Callable[[Iterator[Prediction], list[str], list[str], argparse.Namespace], None]
"""Writes predictions, given the labels, the files and the arguments `format` and `output`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="FOLDER",
        help="for very many recordings: keep finished shards there, continue with the rest when started again, and "
        "share the work between the processes of torchrun; the result is FOLDER/predictions.parquet, or csv or jsonl "
        "by --format, and FOLDER/failures.jsonl",
    )
    parser.add_argument(
        "--shard_files",
        type=int,
        metavar="N",
        help="with --output_dir: recordings in a shard, the most that an interrupted process loses; default: "
        f"{SHARD_FILES}",
    )


def check(arguments: argparse.Namespace) -> None:
    """Raises `InferenceError` for arguments that do not fit `--output_dir`, or its absence."""
    if arguments.output_dir is None:
        if arguments.shard_files is not None:
            raise InferenceError("--shard_files would be ignored: it needs --output_dir FOLDER.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InferenceError("Several processes share the recordings only with --output_dir FOLDER: add it.")
        return
    for given, name in (
        (arguments.output, "--output"),
        (arguments.plot, "--plot"),
        (STANDARD_INPUT in arguments.files, STANDARD_INPUT),
    ):
        if given:
            raise InferenceError(f"--output_dir and {name} exclude each other: leave one of them out.")
    arguments.format = FORMATS[0] if arguments.format == "table" else arguments.format
    if arguments.format not in FORMATS:
        raise InferenceError(f"--output_dir writes {', '.join(FORMATS)}, not {arguments.format}.")


def run(arguments: argparse.Namespace, write: Write) -> int:
    """Predicts the shards of this process; the process that finds all shards done joins them."""
    process = _process(arguments)
    files, problems = audio_files(arguments.files)
    if not files:
        return report(problems)
    recognizer = load_quietly(arguments, pack=False)
    question = Question(arguments.top_k, arguments.abstain_below, arguments.channels, arguments.precision)
    size = SHARD_FILES if arguments.shard_files is None else arguments.shard_files
    shards = shards_of(files, arguments.output_dir / "shards", recognizer, question, size)
    if isinstance(recognizer, Recognizer):
        recognizer = packed(recognizer, arguments.precision)
    todo = [shard for shard in shards[process.process_index :: process.num_processes] if not shard.done]
    if not _answer_all(todo, recognizer, question, arguments.batch_size, process.is_main_process):
        return TERMINATED
    # The last process to finish finds all shards done. None waits for another, which may have died.
    status = 0
    if (todo or process.is_main_process) and all(shard.done for shard in shards):
        status = _join(shards, recognizer.labels, problems, arguments, write)
    process.destroy_process_group()
    # torchrun would take status 1 of one process for a crash and restart all of them.
    return status if process.num_processes == 1 else 0


def _process(arguments: argparse.Namespace) -> PartialState:
    """Returns the state of this process among all, and sets its device in `arguments`."""
    exported = is_exported(arguments.model)
    cpu = arguments.device == "cpu" or exported or not torch.cuda.is_available()
    process = PartialState(cpu=cpu)
    if int(os.environ.get("WORLD_SIZE", "1")) != process.num_processes:
        raise InferenceError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {process.num_processes} processes are connected: start "
            "them with torchrun."
        )
    if not exported:
        arguments.device = arguments.device or str(process.device)
    return process


def _answer_all(todo: list[Shard], recognizer: Answering, question: Question, batch_size: int, shown: bool) -> bool:
    """Predicts the shards; returns False if it was terminated, which takes effect after the current shard."""
    with _told_to_stop() as told, tqdm(todo, unit="shard", disable=not (shown and sys.stderr.isatty())) as bar:
        for shard in bar:
            answer(shard, recognizer, question, batch_size)
            if told:
                return False
    return True


@contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """Yields a list that is empty until SIGTERM, sent by torchrun when another process dies, or by a scheduler.

    Both wait before they kill, long enough to finish a shard.
    """
    told: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        told.append(number)

    before = signal.signal(signal.SIGTERM, remember)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def _join(
    shards: list[Shard], labels: list[str], problems: list[str], arguments: argparse.Namespace, write: Write
) -> int:
    """Writes the predictions of all shards to one file and the failures to another; returns the exit status."""
    failures: list[str] = []

    def predictions() -> Iterator[Prediction]:
        for result in answers(shards):
            if isinstance(result, Failure):
                failures.append(json_text(failure_object(result)))
            else:
                yield result

    arguments.output = arguments.output_dir / f"predictions.{arguments.format}"
    write(predictions(), labels, [], arguments)
    told = arguments.output_dir / "failures.jsonl"
    write_lines(failures, told)
    if failures:
        print(f"whisper-ser: {len(failures)} could not be used; {told} has the reasons.", file=sys.stderr)
    return max(report(problems), int(bool(failures)))
