"""What a person names on the command line - files, folders, patterns - as a list of audio files."""

import glob
import os
from pathlib import Path

import soundfile

from whisper_ser.errors import InferenceError

SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} | {
    ".aif",
    ".oga",
    ".opus",
    ".snd",
}
"""Of the files that a folder stands for; a file that is named itself may have any."""
STANDARD_INPUT = "-"


def audio_files(names: list[str]) -> tuple[list[str], list[str]]:
    """Returns the audio files that the names stand for, in the order given, and what is wrong with other names.

    A folder stands for every audio file in it and below it, hidden ones left out, sorted; so does a pattern. A name
    that is neither there nor a pattern is kept: reading it says what is wrong.
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
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()
