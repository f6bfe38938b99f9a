"""`whisper-ser timeline`: emotions over time, of recordings or of raw audio from standard input."""

import argparse
import os
import sys
from collections.abc import Iterator

import numpy as np

from whisper_ser.commands.printing import report, write_lines
from whisper_ser.commands.recordings import STANDARD_INPUT, add_arguments, audio_files, check_plot, open_all
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
        description="Show how emotions change over recordings of any length. With -, raw audio (signed 16-bit, little "
        "endian) is read from standard input and classified as it arrives.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE|FOLDER|GLOB|-", help="- reads raw audio from standard input")
    add_arguments(parser, FORMATS)
    parser.add_argument("--window", type=float, default=3.0, help="seconds of a window; default: %(default)s")
    parser.add_argument("--hop", type=float, default=0.5, help="seconds between windows; default: %(default)s")
    parser.add_argument(
        "--cut",
        choices=("pauses", "even"),
        default="pauses",
        help="encode speech between pauses (default), or everything in even chunks as predict does",
    )
    parser.add_argument(
        "--raw_rate", type=int, metavar="HERTZ", help="with -: sampling rate of the raw audio; default: 16000"
    )
    parser.add_argument("--raw_channels", type=int, metavar="N", help="with -: channels of the raw audio; default: 1")
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    return run_stream(arguments) if STANDARD_INPUT in arguments.files else run_files(arguments)


def run_files(arguments: argparse.Namespace) -> int:
    """Writes the timelines of files, and reports failures."""
    for name in ("raw_rate", "raw_channels"):
        if getattr(arguments, name) is not None:
            raise InferenceError(f"--{name} would be ignored: it describes raw audio from standard input (-).")
    files, problems = audio_files(arguments.files)
    check_plot(arguments, files)
    if arguments.format == "vtt" and (len(files) != 1 or arguments.channels == "separate"):
        raise InferenceError(
            f"--format vtt makes subtitles for one recording with averaged channels; got {len(files)}."
        )
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
                    channel=channel,
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
    """Writes segments and windows of raw audio from standard input, each as soon as it is final."""
    if len(arguments.files) > 1 or arguments.channels == "separate" or arguments.plot is not None:
        raise InferenceError("- must be the only input, with averaged channels and without --plot.")
    if arguments.format == "json" or arguments.cut == "even":
        raise InferenceError("A stream is written as it arrives: use --format jsonl, and leave --cut out.")
    rate = 16000 if arguments.raw_rate is None else arguments.raw_rate
    channels = 1 if arguments.raw_channels is None else arguments.raw_channels
    if rate < 1 or channels < 1:
        raise InferenceError("--raw_rate and --raw_channels must be at least 1.")
    recognizer = load_frame_model(arguments.model, arguments.device, arguments.precision)
    updates = stream(
        _raw_blocks(rate, channels),
        recognizer,
        rate,
        window=arguments.window,
        hop=arguments.hop,
    )
    write_lines(_stream_lines(updates, arguments.format, recognizer.labels), arguments.output)
    return 0


def _raw_blocks(rate: int, channels: int) -> Iterator[np.ndarray]:
    """Yields blocks `(samples, channels)` of signed 16-bit audio as they arrive, each of at most 0.1 s."""
    width, rest = 2 * channels, b""
    most = width * max(1, rate // BLOCKS_PER_SECOND)
    while data := _arrived(most):
        data = rest + data
        whole = len(data) // width * width
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").reshape(-1, channels).astype(np.float32) / 2**15


def _arrived(most: int) -> bytes:
    """Returns the bytes that have arrived, at most `most`; waits for the first one, and is empty at the end."""
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
