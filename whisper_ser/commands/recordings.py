"""The common part of `predict` and `timeline`: arguments, models, recordings and failures."""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm
from transformers.utils import logging

from whisper_ser.audio.decoding import Audio
from whisper_ser.errors import InferenceError
from whisper_ser.inference.formats import shown
from whisper_ser.inference.inputs import STANDARD_INPUT
from whisper_ser.inference.model import Answering, Recognizer, answering, is_exported, load_model, recognizer_of
from whisper_ser.inference.outputs import Failure
from whisper_ser.inference.speed import PRECISIONS


def add_arguments(parser: argparse.ArgumentParser, formats: tuple[str, ...]) -> None:
    """Adds the arguments of both commands."""
    parser.add_argument("--model", required=True, help="folder or Hub id of a trained model, or model.onnx")
    parser.add_argument(
        "--channels",
        choices=("mix", "separate"),
        default="mix",
        help="average the channels (default), or classify each",
    )
    parser.add_argument("--format", choices=formats, default=formats[0], help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of the terminal")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the result for one recording")
    parser.add_argument("--device", help="such as cpu or cuda:0; default: a GPU if there is one")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="on a CPU: float32 (default), or int8, faster and less accurate (AVX-512 VNNI)",
    )


def load_quietly(arguments: argparse.Namespace, pack: bool = True) -> Answering:
    """Returns the model, without a progress bar; with `pack` in its fastest form, else as it was saved."""
    logging.disable_progress_bar()
    if pack or is_exported(arguments.model):
        return answering(arguments.model, arguments.device, arguments.precision)
    return load_model(arguments.model, arguments.device)


def load_for_frames(arguments: argparse.Namespace) -> Recognizer:
    """Returns the model as `load_quietly`; raises for an exported model, which returns no frames."""
    logging.disable_progress_bar()
    return recognizer_of(arguments.model, arguments.device, arguments.precision)


def open_all(files: list[str]) -> Iterator[Audio]:
    """Yields the files, and standard input as an audio file; shows progress for several files on a terminal."""
    for file in tqdm(files, unit="file", disable=len(files) < 2 or not sys.stderr.isatty()):
        yield StandardInput(sys.stdin.buffer.read()) if file == STANDARD_INPUT else file


class StandardInput(io.BytesIO):
    """An audio file read from standard input."""

    name = STANDARD_INPUT


def check_plot(arguments: argparse.Namespace, files: list[str]) -> None:
    if arguments.plot is not None and (len(files) != 1 or arguments.channels == "separate"):
        raise InferenceError(f"--plot draws one recording with averaged channels; {len(files)} were given.")


def failure_text(failure: Failure) -> str:
    channel = "" if failure.channel is None else f", channel {failure.channel},"
    return f"{shown(failure.file)}{channel} {failure.reason}."
