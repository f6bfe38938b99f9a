"""Recordings to try the page with: utterances of the demo corpus, spoken when the page starts."""

from pathlib import Path

import numpy as np
import soundfile

from whisper_ser.demo.corpus import SAMPLE_RATE, SENTENCES, Espeak, planned_utterances
from whisper_ser.errors import CorpusError

SPEAKER = "f5"
"""Held out for the test when the demo model is trained."""
PAUSE_SECONDS = 0.6
TOGETHER = "one after another"


def write_examples(folder: Path) -> dict[str, Path]:
    """Returns recordings by their captions: one for each emotion of the demo corpus, and all of them in a row.

    There are none where the synthesiser, which comes with the extra `demo`, does not run.

    Args:
        folder: where they are written.
    """
    try:
        espeak = Espeak()
    except (CorpusError, OSError):
        return {}
    written: dict[str, Path] = {}
    for number, utterance in enumerate(one for one in planned_utterances() if one.speaker == SPEAKER):
        # Another sentence for each emotion.
        if number % len(SENTENCES) == len(written):
            espeak.write(utterance, folder)
            written[utterance.emotion] = folder / utterance.file_name
    joined = folder / "together.flac"
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.int16)
    parts = [samples for path in written.values() for samples in (soundfile.read(path, dtype="int16")[0], pause)]
    soundfile.write(joined, np.concatenate(parts[:-1]), SAMPLE_RATE, subtype="PCM_16")
    return {**written, TOGETHER: joined}
