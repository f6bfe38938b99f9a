"""What `predict` and `timeline` share: which recordings, which model, and what failed."""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from whisper_ser.audio.decoding import Audio
from whisper_ser.commands.printing import progress
from whisper_ser.errors import InferenceError
from whisper_ser.inference.formats import shown
from whisper_ser.inference.inputs import STANDARD_INPUT
from whisper_ser.inference.model import PRECISIONS
from whisper_ser.inference.outputs import Failure


def add_arguments(parser: argparse.ArgumentParser, formats: tuple[str, ...]) -> None:
    """Adds the arguments that both commands have."""
    parser.add_argument("--model", required=True, help="folder or Hub id of a trained model, or model.onnx")
    parser.add_argument(
        "--channels",
        choices=("mix", "separate"),
        default="mix",
        help="average the channels (default), or answer for each",
    )
    parser.add_argument("--format", choices=formats, default=formats[0], help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there, whole or not at all, not to screen")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the answer for one recording")
    parser.add_argument("--device", help="such as cpu or cuda:0; default: a GPU if there is one")
    parser.add_argument("--precision", choices=PRECISIONS, help="on a CPU; default: float32")


def open_all(files: list[str]) -> Iterator[Audio]:
    """Yields the files, standard input read as an audio file, with progress on a terminal when there are several."""
    for file in progress(files, "file"):
        yield StandardInput(sys.stdin.buffer.read()) if file == STANDARD_INPUT else file


class StandardInput(io.BytesIO):
    """An audio file that came through a pipe."""

    name = STANDARD_INPUT


def check_plot(arguments: argparse.Namespace, files: list[str]) -> None:
    if arguments.plot is not None and (len(files) != 1 or arguments.channels == "separate"):
        raise InferenceError(f"--plot draws one recording, channels mixed; {len(files)} were given.")


def failure_text(failure: Failure) -> str:
    channel = "" if failure.channel is None else f", channel {failure.channel},"
    return f"{shown(failure.file)}{channel} {failure.reason}."
