"""The audio files that the command line names by files, folders and patterns."""

import glob
import os
from pathlib import Path

import soundfile

from whisper_ser.errors import InferenceError

AUDIO_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} | {
    ".aif",
    ".oga",
    ".opus",
    ".snd",
}
"""Suffixes of the audio files in a folder; a file that is named directly may have any suffix."""
STANDARD_INPUT = "-"


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
