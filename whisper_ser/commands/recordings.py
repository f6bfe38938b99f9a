"""The common part of `predict` and `timeline`: arguments, models, recordings and failures."""

import argparse
import glob
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import soundfile

from whisper_ser.audio.decoding import Audio
from whisper_ser.commands.printing import progress
from whisper_ser.errors import InferenceError
from whisper_ser.inference.formats import shown
from whisper_ser.inference.model import PRECISIONS
from whisper_ser.inference.outputs import Failure

AUDIO_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} | {
    ".aif",
    ".oga",
    ".opus",
    ".snd",
}
"""Suffixes of the audio files in a folder; a file that is named directly may have any suffix."""
STANDARD_INPUT = "-"


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
    parser.add_argument("--precision", choices=PRECISIONS, help="int8 is faster, on a CPU only; default: float32")


def open_all(files: list[str]) -> Iterator[Audio]:
    """Yields the files, standard input read as an audio file, with progress on a terminal when there are several."""
    for file in progress(files, "file"):
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


def audio_files(names: list[str]) -> tuple[list[str], list[str]]:
    """Returns the audio files that the names stand for, in the given order, and a message for each name without any.

    A folder stands for all audio files below it, sorted, without hidden ones; a pattern for all files that match it,
    sorted. A name that neither exists nor is a pattern is kept: reading it raises the error.
    """
    files, problems = [], []
    for name in names:
        try:
            files += _files(name)
        except InferenceError as error:
            problems.append(str(error))
    return files, problems


def _files(name: str) -> list[str]:
    if os.path.isdir(name):
        found = sorted(str(path) for path in Path(name).rglob("*") if _is_audio(path.relative_to(name), path))
        if not found:
            raise InferenceError(f"{name} holds no audio file, such as .wav, .flac, .ogg or .mp3.")
        return found
    if name == STANDARD_INPUT or os.path.exists(name) or not glob.has_magic(name):
        return [name]
    found = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
    if not found:
        raise InferenceError(f"No file matches {name}.")
    return found


def _is_audio(inside: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()
