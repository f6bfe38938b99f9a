"""Every audio file decoded once before training, so that all bad ones are known together."""

from tqdm import tqdm

from whisper_ser.audio import read_audio
from whisper_ser.errors import AudioFileError, CorpusError, listed


def check_audio(paths: list[str], progress: bool = True) -> list[float]:
    """Returns the length of each file in seconds.

    Raises:
        CorpusError: lists every file that cannot be used with its reason.
    """
    seconds, problems = [], []
    for path in tqdm(paths, desc="checking audio", unit="file", disable=not progress):
        try:
            seconds.append(len(read_audio(path)) / 16000)
        except AudioFileError as error:
            problems.append(f"{path} {error.reason}")
    if problems:
        raise CorpusError(
            f"{len(problems)} of {len(paths)} audio files cannot be used; repair them or take them out of the table:\n"
            + listed(problems)
        )
    return seconds
