"""Example recordings: utterances of the demo corpus, synthesised when the page starts."""

from pathlib import Path

import numpy as np
import soundfile

from whisper_ser.demo.corpus import SAMPLE_RATE, SENTENCES, Espeak, planned_utterances
from whisper_ser.errors import CorpusError

SPEAKER = "f5"
"""A test speaker of the demo recipe."""
PAUSE_SECONDS = 0.6
JOINED_CAPTION = "one after another"


def write_examples(folder: Path) -> dict[str, Path]:
    """Writes one recording for each emotion of the demo corpus, and all of them joined, and returns them by caption.

    There are none without the synthesiser, which comes with the extra `demo`.
    """
    try:
        espeak = Espeak()
    except (CorpusError, OSError):
        return {}
    written: dict[str, Path] = {}
    for number, utterance in enumerate(one for one in planned_utterances() if one.speaker == SPEAKER):
        # A different sentence for each emotion.
        if number % len(SENTENCES) == len(written):
            espeak.write(utterance, folder)
            written[utterance.emotion] = folder / utterance.file_name
    joined = folder / "together.flac"
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.int16)
    parts = [samples for path in written.values() for samples in (soundfile.read(path, dtype="int16")[0], pause)]
    soundfile.write(joined, np.concatenate(parts[:-1]), SAMPLE_RATE, subtype="PCM_16")
    return {**written, JOINED_CAPTION: joined}
