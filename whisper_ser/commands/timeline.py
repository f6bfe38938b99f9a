"""`whisper-ser timeline`: emotions over the time of recordings, or of raw audio while it comes through a pipe."""

import argparse
import os
import sys
from collections.abc import Iterator

import numpy as np

from whisper_ser.commands.printing import report, write_lines
from whisper_ser.commands.recordings import add_arguments, check_plot, open_all
from whisper_ser.errors import AudioFileError, InferenceError
from whisper_ser.inference.formats import (
    csv_lines,
    json_text,
    segment_line,
    shown,
    timeline_object,
    timeline_rows,
    update_rows,
    webvtt,
)
from whisper_ser.inference.inputs import STANDARD_INPUT, audio_files
from whisper_ser.inference.model import LoadedModel, load_frame_model
from whisper_ser.inference.outputs import Timeline, Update
from whisper_ser.inference.predict import channels_of, named
from whisper_ser.inference.streaming import stream
from whisper_ser.inference.timeline import timeline

FORMATS = ("text", "json", "jsonl", "csv", "vtt")
BLOCKS_PER_SECOND = 10


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="whisper-ser timeline",
        description="Show how emotions change over recordings of any length. With - raw audio (signed 16-bit, little "
        "endian) is read from a pipe and answered while it comes.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE|FOLDER|GLOB|-", help="- reads raw audio from a pipe")
    add_arguments(parser, FORMATS)
    parser.add_argument("--window", type=float, default=3.0, help="seconds of a window; default: %(default)s")
    parser.add_argument("--hop", type=float, default=0.5, help="seconds between windows; default: %(default)s")
    parser.add_argument(
        "--cut",
        choices=("pauses", "even"),
        default="pauses",
        help="encode speech from pause to pause (default), or everything in even chunks as predict does",
    )
    parser.add_argument("--raw_rate", type=int, default=16000, help="hertz of raw audio; default: %(default)s")
    parser.add_argument("--raw_channels", type=int, default=1, help="channels of raw audio; default: %(default)s")
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    return run_stream(arguments) if STANDARD_INPUT in arguments.files else run_files(arguments)


def run_files(arguments: argparse.Namespace) -> int:
    """Writes the timelines of files, and reports what failed."""
    files, problems = audio_files(arguments.files)
    check_plot(arguments, files)
    if arguments.format == "vtt" and (len(files) != 1 or arguments.channels == "separate"):
        raise InferenceError(f"--format vtt makes subtitles for one recording, channels mixed; got {len(files)}.")
    if not files:
        return report(problems)
    recognizer = load_frame_model(arguments.model, arguments.device, arguments.precision)
    timelines = _timelines(files, recognizer, arguments, problems)
    write_lines(_lines(timelines, arguments.format), arguments.output)
    return report(problems)


def _timelines(
    files: list[str], recognizer: LoadedModel, arguments: argparse.Namespace, problems: list[str]
) -> Iterator[Timeline]:
    for name, audio in named(open_all(files)):
        try:
            for channel in channels_of(audio, name, arguments.channels):
                found = timeline(
                    audio,
                    recognizer,
                    window=arguments.window,
                    hop=arguments.hop,
                    cut=arguments.cut,
                    channel=None if channel is None else channel + 1,
                )
                if arguments.plot is not None:
                    _draw(found, arguments)
                yield found
        except AudioFileError as error:
            problems.append(f"{shown(name)} {error.reason}.")


def _draw(found: Timeline, arguments: argparse.Namespace) -> None:
    from whisper_ser.inference.plots import draw_timeline  # matplotlib takes long to import

    draw_timeline(found, arguments.plot)


def _lines(timelines: Iterator[Timeline], kind: str) -> Iterator[str]:
    match kind:
        case "json":
            yield json_text([timeline_object(one) for one in timelines], indent=2)
        case "jsonl":
            yield from (json_text(row) for one in timelines for row in timeline_rows(one))
        case "csv":
            yield from csv_lines(row for one in timelines for row in timeline_rows(one))
        case "vtt":
            yield from (block for one in timelines for block in webvtt(one.segments))
        case _:
            for one in timelines:
                channel = "" if one.channel is None else f", channel {one.channel}"
                yield f"{shown(one.file)}{channel}: {one.seconds:.2f} s"
                yield from map(segment_line, one.segments)


def run_stream(arguments: argparse.Namespace) -> int:
    """Writes segments and windows of raw audio from standard input, each as soon as it is certain."""
    if len(arguments.files) > 1 or arguments.channels == "separate" or arguments.plot is not None:
        raise InferenceError("- stands alone: one stream, its channels mixed, without --plot.")
    if arguments.format == "json" or arguments.cut == "even":
        raise InferenceError("A stream has no end to wait for: take --format jsonl, and leave --cut out.")
    if arguments.raw_rate < 1 or arguments.raw_channels < 1:
        raise InferenceError("--raw_rate and --raw_channels must be at least 1.")
    recognizer = load_frame_model(arguments.model, arguments.device, arguments.precision)
    updates = stream(
        _raw_blocks(arguments.raw_rate, arguments.raw_channels),
        recognizer,
        arguments.raw_rate,
        window=arguments.window,
        hop=arguments.hop,
    )
    write_lines(_stream_lines(updates, arguments.format, recognizer.labels), arguments.output)
    return 0


def _raw_blocks(rate: int, channels: int) -> Iterator[np.ndarray]:
    """Yields blocks `(samples, channels)` of signed 16-bit audio as they come, a tenth of a second at most each."""
    width, rest = 2 * channels, b""
    most = width * max(1, rate // BLOCKS_PER_SECOND)
    while data := _arrived(most):
        data = rest + data
        whole = len(data) // width * width
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").reshape(-1, channels).astype(np.float32) / 2**15


def _arrived(most: int) -> bytes:
    """Returns what has come through the pipe so far, waiting only while it is nothing; empty at its end."""
    return os.read(sys.stdin.fileno(), most)


def _stream_lines(updates: Iterator[Update], kind: str, labels: list[str]) -> Iterator[str]:
    rows = (row for update in updates for row in update_rows(update, STANDARD_INPUT, None, labels))
    match kind:
        case "jsonl":
            yield from map(json_text, rows)
        case "csv":
            yield from csv_lines(rows)
        case "vtt":
            yield from webvtt(span for update in updates for span in update.segments)
        case _:
            yield from (segment_line(span) for update in updates for span in update.segments)
