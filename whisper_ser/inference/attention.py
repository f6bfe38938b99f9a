"""Where a model listened: the pooling's attention over the time of one recording, with what it heard there."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from whisper_ser.audio.decoding import Audio, decode
from whisper_ser.errors import InferenceError
from whisper_ser.inference.model import ExportedModel, LoadedModel, load_frame_model
from whisper_ser.inference.predict import named

LONGEST_SECONDS = 120


@dataclass(frozen=True)
class Explanation:
    """One recording as the model met it.

    Args:
        file: its name.
        sampling_rate: hertz of the waveform.
        waveform: mono `(samples,)`.
        log_mel: `(mel_frames, mels)`, 100 frames a second.
        attention: weights `(heads, frames)`, each head's summing to 1 over the recording; `None` where the pooling
            has no attention.
        probabilities: of the labels, highest first.
    """

    file: str
    sampling_rate: int
    waveform: np.ndarray
    log_mel: np.ndarray
    attention: np.ndarray | None
    probabilities: dict[str, float]


def explain(
    audio: Audio,
    model: str | os.PathLike | LoadedModel | ExportedModel,
    *,
    sampling_rate: int | None = None,
    device: Any = None,
) -> Explanation:
    """Returns what the model attended to; the arguments are those of `predict`, channels are mixed.

    Raises:
        AudioFileError: the recording cannot be used.
        InferenceError: it is longer than two minutes: no picture could show it.
    """
    recognizer = load_frame_model(model, device)
    ((name, _),) = named([audio])
    rate = recognizer.sampling_rate
    blocks: list[np.ndarray] = []
    for block in decode(audio, name, rate, array_rate=sampling_rate):
        blocks.append(block)
        if sum(map(len, blocks)) > LONGEST_SECONDS * rate:
            raise InferenceError(
                f"{name} is longer than {LONGEST_SECONDS} s, too long to draw its attention: draw its timeline."
            )
    waveform = np.concatenate(blocks)
    log_mel = recognizer.settings.log_mel(waveform)
    probabilities, attention = recognizer.attend(*recognizer.frame_vectors([log_mel]))
    order = np.argsort(-probabilities)
    return Explanation(
        name,
        rate,
        waveform,
        log_mel,
        attention,
        {recognizer.labels[index]: float(probabilities[index]) for index in order},
    )
