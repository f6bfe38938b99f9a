"""The attention of the pooling over the time of one recording, with its waveform and log-mel."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from whisper_ser.audio.decoding import Audio, decode
from whisper_ser.errors import InferenceError
from whisper_ser.inference.model import ExportedModel, LoadedModel, load_frame_model
from whisper_ser.inference.predict import named

MAX_SECONDS = 120


@dataclass(frozen=True)
class Explanation:
    """The attention on one recording, and the input of the model.

    Args:
        file: name of the recording.
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
    """Returns the attention on one recording, with averaged channels. The arguments are those of `predict`.

    Raises:
        AudioFileError: the recording cannot be used.
        InferenceError: the recording is longer than two minutes.
    """
    recognizer = load_frame_model(model, device)
    ((name, _),) = named([audio])
    rate = recognizer.sampling_rate
    blocks: list[np.ndarray] = []
    for block in decode(audio, name, rate, array_rate=sampling_rate):
        blocks.append(block)
        if sum(map(len, blocks)) > MAX_SECONDS * rate:
            raise InferenceError(
                f"{name} is longer than {MAX_SECONDS} s, too long to draw its attention: draw its timeline."
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
