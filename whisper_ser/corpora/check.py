"""Every audio file looked at before training, so that all bad ones are known together."""

from collections.abc import Callable

from tqdm import tqdm

from whisper_ser.audio import audio_seconds, read_audio
from whisper_ser.errors import AudioFileError, CorpusError, listed


def check_audio(paths: list[str], progress: bool = True) -> list[float]:
    """Returns the length of each file in seconds; every file is decoded.

    Raises:
        CorpusError: lists every file that cannot be used with its reason.
    """
    seconds, problems = decoded_lengths(paths, progress)
    refuse_unusable(problems, len(paths))
    return [seconds[path] for path in paths]


def decoded_lengths(paths: list[str], progress: bool = True) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the length of each usable file in seconds, and why each other one cannot be used."""
    return _lengths(paths, lambda path: len(read_audio(path)) / 16000, "checking audio", progress)


def header_lengths(paths: list[str], progress: bool = True) -> tuple[dict[str, float], dict[str, str]]:
    """Returns what `decoded_lengths` does as far as headers tell: a silent or damaged file passes."""
    return _lengths(paths, audio_seconds, "reading headers", progress)


def refuse_unusable(problems: dict[str, str], files: int) -> None:
    """Raises `CorpusError` if there are problems, each the reason of a path, in a corpus of so many files."""
    if problems:
        raise CorpusError(
            f"{len(problems)} of {files} audio files cannot be used; repair them or take them out of the table:\n"
            + listed([f"{path} {reason}" for path, reason in problems.items()])
        )


def _lengths(
    paths: list[str], length: Callable[[str], float], what: str, progress: bool
) -> tuple[dict[str, float], dict[str, str]]:
    seconds, problems = {}, {}
    for path in tqdm(paths, desc=what, unit="file", disable=not progress):
        try:
            seconds[path] = length(path)
        except AudioFileError as error:
            problems[path] = error.reason
    return seconds, problems
