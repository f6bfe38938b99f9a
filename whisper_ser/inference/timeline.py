"""Emotions over the time of a recording of any length: the encoder runs once, and windows are pooled over its frames."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from modeling_whisper_ser.configuration_whisper_ser import FRAMES_PER_SECOND
from whisper_ser.inference.chunks import Chunker
from whisper_ser.inference.decoding import Audio, decode
from whisper_ser.inference.long import recording_vectors
from whisper_ser.inference.outputs import Span, Timeline, Update, join_segments
from whisper_ser.inference.predict import named
from whisper_ser.inference.recognizer import Recognizer
from whisper_ser.inference.streaming import encoded, frame_positions, recognizer_for_time
from whisper_ser.inference.windows import Piece, WindowPooling

Cut = Literal["pauses", "even"]


def timeline(
    audio: Audio,
    model: str | os.PathLike | Recognizer,
    *,
    window: float = 3.0,
    hop: float = 0.5,
    cut: Cut = "pauses",
    channel: int | None = None,
    sampling_rate: int | None = None,
    device: str | torch.device | None = None,
) -> Timeline:
    """Returns the emotions over the time of one recording.

    Args:
        audio: a path, or an array `(samples,)` or `(samples, channels)` in [-1, 1].
        model: a folder, a Hub id, or what `load_model` returned.
        window, hop: seconds of a window, and from one window to the next.
        cut: where the encoder's chunks end. `"pauses"` encodes speech alone, pause to pause, as utterances were in
            training; it is the more accurate, and what `EmotionStream` gives. `"even"` encodes everything as `predict`
            does: pooled over the whole it gives what `predict` gives.
        channel: from 1; left out, channels are mixed.
        sampling_rate: hertz of an array; left out, the model's.
        device: where to run a model that is loaded here.

    Raises:
        AudioFileError: the recording cannot be used. Silence is no error here.
        InferenceError: window, hop or model do not allow a timeline.
    """
    recognizer = recognizer_for_time(model, device)
    ((name, _),) = named([audio])
    pooling = WindowPooling(recognizer, window, hop)
    clock = _Clock(recognizer.sampling_rate)
    blocks = clock.timing(
        decode(audio, name, recognizer.sampling_rate, None if channel is None else channel - 1, sampling_rate)
    )
