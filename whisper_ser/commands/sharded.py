"""`whisper-ser predict --output_dir`: very many recordings, by one process or by several, in shards that are kept."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from whisper_ser.commands.printing import progress, report, write_lines
from whisper_ser.commands.recordings import STANDARD_INPUT, audio_files
from whisper_ser.errors import InferenceError
from whisper_ser.inference.formats import json_text, result_object
from whisper_ser.inference.model import ExportedModel, LoadedModel, has_accelerator, is_exported, load_model
from whisper_ser.inference.outputs import Failure, Prediction
from whisper_ser.inference.sharded import SHARD_FILES, Shard, ShardOptions, predict_shard, read_shards, shards_of

FORMATS = ("parquet", "csv", "jsonl")
TERMINATED = 128 + signal.SIGTERM

Write = Callable[[Iterator[Prediction], list[str], list[str], argparse.Namespace], None]
"""Writes predictions, given the labels, the files and the arguments `format` and `output`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="FOLDER",
        help="for very many recordings: keep what is done there, go on with the rest when started again, and divide "
        "the work where torchrun started several processes; ends with FOLDER/predictions.parquet, or --format csv or "
        "jsonl, and FOLDER/failures.jsonl",
    )
    parser.add_argument(
        "--shard_files",
        type=int,
        metavar="N",
        help="with --output_dir: recordings in a shard, what an interruption costs a process at most; default: "
        f"{SHARD_FILES}",
    )


def check(arguments: argparse.Namespace) -> None:
    """Raises `InferenceError` for what cannot be divided, or would be done by each of several processes."""
    if arguments.output_dir is None:
        if arguments.shard_files is not None:
            raise InferenceError("--shard_files is of shards in a folder: add --output_dir FOLDER.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InferenceError("Several processes divide the recordings only with --output_dir FOLDER: add it.")
        return
    for given, name in (
        (arguments.output, "--output"),
        (arguments.plot, "--plot"),
        (STANDARD_INPUT in arguments.files, STANDARD_INPUT),
    ):
        if given:
            raise InferenceError(f"--output_dir does not go with {name}: leave one of them out.")
    arguments.format = FORMATS[0] if arguments.format == "table" else arguments.format
    if arguments.format not in FORMATS:
        raise InferenceError(f"--output_dir holds {', '.join(FORMATS)}, not {arguments.format}.")


def run(arguments: argparse.Namespace, write: Write) -> int:
    """Predicts this process's share of the shards; the process that finds all of them done joins them."""
    index, count = share(arguments)
    files, problems = audio_files(arguments.files)
    if not files:
        return report(problems)
    recognizer = load_model(arguments.model, arguments.device, arguments.precision)
    options = ShardOptions(arguments.top_k, arguments.abstain_below, arguments.channels)
    size = SHARD_FILES if arguments.shard_files is None else arguments.shard_files
    shards = shards_of(files, arguments.output_dir / "shards", recognizer, options, size)
    todo = [shard for shard in shards[index::count] if not shard.done]
    if not _predict_all(todo, recognizer, options, arguments.batch_size, shown=index == 0):
        return TERMINATED
    # The last process finds all shards done. None waits for another, which may have died.
    status = 0
    if (todo or index == 0) and all(shard.done for shard in shards):
        status = _join(shards, recognizer.labels, problems, arguments, write)
    # torchrun takes status 1 of one of several processes for a crash, and starts all of them again.
    return status if count == 1 else 0


def share(arguments: argparse.Namespace) -> tuple[int, int]:
    """Returns the index of this process and the number of processes (torchrun's); gives each of several its GPU."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return 0, 1
    if "RANK" not in os.environ:
        raise InferenceError(f"{count} processes were started, and this one has no RANK: start them with torchrun.")
    if arguments.device is None and not is_exported(arguments.model) and has_accelerator():
        arguments.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return int(os.environ["RANK"]), count


def _predict_all(
    todo: list[Shard], recognizer: LoadedModel | ExportedModel, options: ShardOptions, batch_size: int, shown: bool
) -> bool:
    """Predicts the shards; returns False after SIGTERM, which ends the work between two of them."""
    with _sigterm_noted() as noted:
        for shard in progress(todo, "shard") if shown else todo:
            predict_shard(shard, recognizer, options, batch_size)
            if noted:
                return False
    return True


@contextmanager
def _sigterm_noted() -> Iterator[list[int]]:
    """Yields a list that is empty until SIGTERM arrives, from torchrun when another process died, or from a cluster.

    Both wait before they kill, long enough to finish a shard.
    """
    noted: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        noted.append(number)

    before = signal.signal(signal.SIGTERM, remember)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)


def _join(
    shards: list[Shard], labels: list[str], problems: list[str], arguments: argparse.Namespace, write: Write
) -> int:
    """Writes the predictions of all shards to one file, and failures to another; returns the exit status."""
    failures: list[str] = []

    def predictions() -> Iterator[Prediction]:
        for result in read_shards(shards):
            if isinstance(result, Failure):
                failures.append(json_text(result_object(result)))
            else:
                yield result

    arguments.output = arguments.output_dir / f"predictions.{arguments.format}"
    write(predictions(), labels, [], arguments)
    failed = arguments.output_dir / "failures.jsonl"
    write_lines(failures, failed)
    if failures:
        print(f"whisper-ser: {len(failures)} could not be used; reasons are in {failed}.", file=sys.stderr)
    return max(report(problems), int(bool(failures)))
