"""Predictions for recordings of any number and length, in batches of similar length, in the given order."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from whisper_ser.audio.decoding import MIN_PEAK_TO_PEAK, Audio, channel_count, decode
from whisper_ser.errors import AudioFileError, InferenceError
from whisper_ser.inference.engines.exported import ExportedModel
from whisper_ser.inference.model import LoadedModel, load_model
from whisper_ser.inference.outputs import UNCERTAIN, Failure, Prediction

Channels = Literal["mix", "separate"]

LONG_SECONDS = 60
"""Longer recordings are decoded and encoded in sections instead of in a batch."""
BATCH_SECONDS = 240
"""The most seconds of audio in a batch, padding included."""
BATCHES_READ = 8
"""Number of batches that are read before their clips are sorted by length."""


def predict(
    audio: Audio | Sequence[Audio],
    model: str | os.PathLike | LoadedModel | ExportedModel,
    *,
    top_k: int | None = None,
    abstain_below: float = 0.0,
    channels: Channels = "mix",
    batch_size: int = 8,
    sampling_rate: int | None = None,
    device: Any = None,
    precision: str | None = None,
) -> list[Prediction]:
    """Returns the emotion of each recording, in the given order, or of each channel with `channels="separate"`.

    The probabilities are those of the stock `pipeline("audio-classification")`, for files of any length.

    Args:
        audio: a path, an array `(samples,)` or `(samples, channels)` in [-1, 1], or a list of them.
        model: a folder, a Hub id, a file that `whisper-ser export onnx` wrote, or a loaded model.
        top_k: keep only the k most probable labels in `probabilities`.
        abstain_below: the label is `"uncertain"` where the highest probability is lower; 0 never abstains.
        channels: `"mix"` averages the channels, `"separate"` classifies each.
        batch_size: clips encoded together; clips of similar length share a batch.
        sampling_rate: of arrays, in hertz; by default that of the model. Files have their own.
        device: where to run a model that is loaded here.
        precision: of a model that is loaded here, as in `load_model`.

    Raises:
        AudioFileError: a recording cannot be used. `predict_each` continues with the others.
        InferenceError: an argument is out of range.
    """
    results = []
    given = [audio] if isinstance(audio, str | Path | np.ndarray) or hasattr(audio, "read") else audio
    for result in predict_each(
        given,  # type: ignore[arg-type]
        model,
        top_k=top_k,
        abstain_below=abstain_below,
        channels=channels,
        batch_size=batch_size,
        sampling_rate=sampling_rate,
        device=device,
        precision=precision,
    ):
        if isinstance(result, Failure):
            raise AudioFileError(result.file, result.reason)
        results.append(result)
    return results


def predict_each(
    audio: Iterable[Audio],
    model: str | os.PathLike | LoadedModel | ExportedModel,
    *,
    top_k: int | None = None,
    abstain_below: float = 0.0,
    channels: Channels = "mix",
    batch_size: int = 8,
    sampling_rate: int | None = None,
    device: Any = None,
    precision: str | None = None,
) -> Iterator[Prediction | Failure]:
    """Yields the predictions of `predict` as they are ready, and a `Failure` for each unusable recording."""
    _check(top_k, abstain_below, channels, batch_size)
    recognizer = load_model(model, device, precision)
    labels = recognizer.labels
    waiting = _read(audio, recognizer, channels, sampling_rate)
    while clips := list(islice(waiting, BATCHES_READ * batch_size)):
        _classify(clips, recognizer, batch_size)
        for clip in clips:
            if clip.probabilities is None:
                yield Failure(clip.file, clip.channel, clip.failure)
            else:
                yield _prediction(clip, clip.probabilities, labels, top_k, abstain_below)


@dataclass
class _Clip:
    """A recording being processed: it has samples, later probabilities, or the reason of its failure."""

    file: str
    channel: int | None
    seconds: float = 0.0
    samples: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    failure: str = ""


def named(audio: Iterable[Audio]) -> Iterator[tuple[str, Audio]]:
    """Yields each recording with its name in results and messages."""
    for number, one in enumerate(audio, start=1):
        yield (str(one) if isinstance(one, str | Path) else getattr(one, "name", None) or f"audio {number}"), one


def channels_of(audio: Audio, name: str, channels: Channels) -> list[int | None]:
    """Returns the channels, counted from 1, that are classified separately; `[None]` for their average."""
    return list(range(1, channel_count(audio, name) + 1)) if channels == "separate" else [None]


def _read(
    audio: Iterable[Audio], recognizer: LoadedModel | ExportedModel, channels: Channels, sampling_rate: int | None
) -> Iterator[_Clip]:
    for name, one in named(audio):
        try:
            asked = channels_of(one, name, channels)
        except AudioFileError as error:
            yield _Clip(name, None, failure=error.reason)
            continue
        for channel in asked:
            clip = _Clip(name, channel)
            try:
                _fill(clip, decode(one, name, recognizer.sampling_rate, channel, sampling_rate), recognizer)
            except AudioFileError as error:
                clip.failure = error.reason
            yield clip


def _fill(clip: _Clip, blocks: Iterator[np.ndarray], recognizer: LoadedModel | ExportedModel) -> None:
    """Sets the samples of the clip or, if it is long, its probabilities."""
    meter = Meter()
    first: list[np.ndarray] = []
    blocks = meter.watching(blocks)
    for block in blocks:
        first.append(block)
        if meter.samples > LONG_SECONDS * recognizer.sampling_rate and isinstance(recognizer, LoadedModel):
            mel = recognizer.settings.log_mel.of_blocks(chain(first, blocks))
            meter.check(clip.file)
            (vectors,) = recognizer.frame_vectors([mel])
            clip.probabilities = recognizer.pool(vectors, [len(vectors)])[0]
            break
    else:
        meter.check(clip.file)
        samples = np.concatenate(first)
        if meter.samples > LONG_SECONDS * recognizer.sampling_rate:
            # Clips are held until a group is complete; long ones would take too much memory.
            clip.probabilities = recognizer.probabilities([samples])[0]
        else:
            clip.samples = samples
    clip.seconds = meter.samples / recognizer.sampling_rate


class Meter:
    """Counts the samples of a recording as they pass, and detects silence."""

    def __init__(self) -> None:
        self.samples = 0
        self._low, self._high = np.inf, -np.inf

    def watching(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            self.samples += len(block)
            if len(block):
                self._low, self._high = min(self._low, block.min()), max(self._high, block.max())
            yield block

    def check(self, file: str) -> None:
        if self._high - self._low < MIN_PEAK_TO_PEAK:
            raise AudioFileError(file, "is silent")


def _classify(clips: list[_Clip], recognizer: LoadedModel | ExportedModel, batch_size: int) -> None:
    """Sets the probabilities of the clips that have samples, in batches of similar length."""
    waiting = sorted((clip for clip in clips if clip.samples is not None), key=lambda clip: clip.seconds)
    while waiting:
        longest = waiting[-1].seconds
        count = max(1, min(batch_size, int(BATCH_SECONDS / longest)))
        batch, waiting = waiting[-count:], waiting[:-count]
        found = recognizer.probabilities([clip.samples for clip in batch if clip.samples is not None])
        for clip, probabilities in zip(batch, found, strict=True):
            clip.samples, clip.probabilities = None, probabilities


def _prediction(
    clip: _Clip, probabilities: np.ndarray, labels: list[str], top_k: int | None, abstain_below: float
) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")
    ranked = {labels[index]: float(probabilities[index]) for index in order[:top_k]}
    label, score = next(iter(ranked.items()))
    answer = label if score >= abstain_below else UNCERTAIN
    return Prediction(clip.file, clip.channel, clip.seconds, answer, score, ranked)


def _check(top_k: int | None, abstain_below: float, channels: Any, batch_size: int) -> None:
    if top_k is not None and top_k < 1:
        raise InferenceError(f"top_k={top_k} must be at least 1, or left out for all labels.")
    if not 0 <= abstain_below <= 1:
        raise InferenceError(f"abstain_below={abstain_below:g} must be a probability, from 0 to 1.")
    if batch_size < 1:
        raise InferenceError(f"batch_size={batch_size} must be at least 1.")
    if channels not in ("mix", "separate"):
        raise InferenceError(f"channels={channels!r} must be 'mix' or 'separate'.")
