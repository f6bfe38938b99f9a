"""An exported model at work: ONNX Runtime, NumPy, soundfile and soxr, neither torch nor transformers.

python -m whisper_ser.inference.engines.onnx_runtime model.onnx recording.wav ...
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from whisper_ser.audio.decoding import MIN_PEAK_TO_PEAK, Audio, decode
from whisper_ser.errors import AudioFileError, ExportError, WhisperSerError
from whisper_ser.inference.outputs import Prediction
from whisper_ser.inference.reference_waveform import (
    ReferenceOutputError,
    check_probabilities,
    is_reference_output,
    waveform,
)

AUDIO, LENGTHS, PROBABILITIES = "audio", "lengths", "probabilities"
"""Names of the graph's inputs and of its output."""
FORMAT = "1"
"""Of the metadata below. A reader refuses what it does not know."""
FORMAT_KEY = "whisper_ser_format"
METADATA = ("labels", "sampling_rate", "chunk_seconds", "pad_to_seconds", "precision", "model", "known_answer")
"""What travels with a graph, each as JSON."""
BATCH_SECONDS = 240
"""Audio given to the graph at a time at most, padding included; a recording that is longer goes alone."""
BATCHES_READ = 8
"""Batches decoded before the clips of like length among them are put together."""


class OnnxModel:
    """An exported model, ready: waveforms in, probabilities out.

    Args:
        path: a file that `whisper-ser export onnx` wrote.
        threads: that work on one batch; as many as cores by default.

    Raises:
        ExportError: no ONNX Runtime, no such file, or one that is none of ours.
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError(
                "Exported models run on ONNX Runtime: pip install onnxruntime, or 'whisper-ser[onnx]'."
            ) from error
        self.path = Path(path)
        if not self.path.is_file():
            raise ExportError(f"There is no file {path}: give one that `whisper-ser export onnx` wrote.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common type of their own
            raise ExportError(f"{path} is no ONNX model that can be read here ({error}).") from error
        self.metadata = read_metadata(self._session.get_modelmeta().custom_metadata_map, self.path)

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the probabilities."""
        return self.metadata["labels"]

    @property
    def sampling_rate(self) -> int:
        """Hertz of the audio that the graph reads."""
        return self.metadata["sampling_rate"]

    def probabilities(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Returns `(clips, labels)` for mono clips `(samples,)` at `sampling_rate`, run together."""
        lengths = np.array([len(clip) for clip in clips], dtype=np.int64)
        audio = np.zeros((len(clips), lengths.max()), dtype=np.float32)
        for row, clip in zip(audio, clips, strict=True):
            row[: len(clip)] = clip
        (probabilities,) = self._session.run([PROBABILITIES], {AUDIO: audio, LENGTHS: lengths})
        return probabilities

    def verify(self) -> float:
        """Returns the largest difference of a probability from the reference output that the file carries.

        Raises:
            ReferenceOutputError: too large: a damaged file, or a processor that multiplies 8-bit integers wrongly.
        """
        known = self.metadata["known_answer"]
        (found,) = self.probabilities([waveform(known["waveform"])])
        return check_probabilities(dict(zip(self.labels, found.tolist(), strict=True)), known, str(self.path))


def predict(
    audio: Audio | Iterable[Audio],
    model: str | os.PathLike | OnnxModel,
    *,
    batch_size: int = 8,
    sampling_rate: int | None = None,
) -> list[Prediction]:
    """Returns the emotion of each recording, in the order given: what `whisper_ser.predict` says, without torch.

    Args:
        audio: a path, an array `(samples,)` or `(samples, channels)` in [-1, 1], or several of them. Channels are
            averaged; files may have any rate and length.
        model: an exported file, or what was made of it before.
        batch_size: clips run together; clips of like length share a batch.
        sampling_rate: hertz of arrays; left out, the model's. Files say it themselves.

    Raises:
        AudioFileError: the first recording that cannot be used.
        ExportError: the model cannot be used, or `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ExportError(f"batch_size={batch_size} must be at least 1.")
    ready = model if isinstance(model, OnnxModel) else OnnxModel(model)
    alone = isinstance(audio, str | Path | np.ndarray) or hasattr(audio, "read")
    given: Iterable[Any] = [audio] if alone else audio  # type: ignore[assignment]
    numbered = enumerate(given, start=1)
    predictions: list[Prediction] = []
    while group := list(itertools.islice(numbered, BATCHES_READ * batch_size)):
        names = [
            str(one) if isinstance(one, str | Path) else getattr(one, "name", None) or f"audio {number}"
            for number, one in group
        ]
        clips = [_read(one, name, ready, sampling_rate) for (_, one), name in zip(group, names, strict=True)]
        found = _in_batches(clips, ready, batch_size)
        predictions += [
            _prediction(name, len(clip) / ready.sampling_rate, probabilities, ready.labels)
            for name, clip, probabilities in zip(names, clips, found, strict=True)
        ]
    return predictions


def read_metadata(found: dict[str, str], path: Path) -> dict[str, Any]:
    """Returns what travels with a graph of ours.

    Raises:
        ExportError: it is none of ours, or of a later version.
    """
    if FORMAT_KEY not in found:
        raise ExportError(f"{path} is no model that `whisper-ser export onnx` wrote.")
    if found[FORMAT_KEY] != FORMAT:
        raise ExportError(
            f"{path} has format {found[FORMAT_KEY]}, and this version of whisper-ser reads {FORMAT}: update the one "
            "or export anew with the other."
        )
    try:
        metadata = {key: json.loads(found[key]) for key in METADATA}
    except (KeyError, ValueError, RecursionError) as error:
        raise ExportError(f"The metadata of {path} are damaged ({error}): export the model again.") from error
    labels = metadata["labels"]
    named = isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
    rate = metadata["sampling_rate"]
    if not named or not is_reference_output(metadata["known_answer"]) or not isinstance(rate, int) or rate < 1000:
        raise ExportError(f"The metadata of {path} are damaged: export the model again.")
    return metadata


def _read(audio: Audio, name: str, model: OnnxModel, sampling_rate: int | None) -> np.ndarray:
    samples = np.concatenate(list(decode(audio, name, model.sampling_rate, array_rate=sampling_rate)))
    if np.ptp(samples) < MIN_PEAK_TO_PEAK:
        raise AudioFileError(name, "is silent")
    return samples


def _in_batches(clips: list[np.ndarray], model: OnnxModel, batch_size: int) -> list[np.ndarray]:
    """Returns the probabilities `(labels,)` of each clip, those of like length run together."""
    found: list[np.ndarray] = [np.empty(0)] * len(clips)
    waiting = sorted(range(len(clips)), key=lambda index: len(clips[index]))
    while waiting:
        seconds = len(clips[waiting[-1]]) / model.sampling_rate
        count = max(1, min(batch_size, int(BATCH_SECONDS / seconds)))
        batch, waiting = waiting[-count:], waiting[:-count]
        for index, probabilities in zip(batch, model.probabilities([clips[i] for i in batch]), strict=True):
            found[index] = probabilities
    return found


def _prediction(name: str, seconds: float, probabilities: np.ndarray, labels: list[str]) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")
    ranked = {labels[index]: float(probabilities[index]) for index in order}
    label, score = next(iter(ranked.items()))
    return Prediction(name, None, seconds, label, score, ranked)


def main(argv: list[str] | None = None) -> int:
    """Prints a JSON line for each file, and checks the model before."""
    parser = argparse.ArgumentParser(description="Emotions of recordings, with an exported model and without torch.")
    parser.add_argument("model", help="a file that `whisper-ser export onnx` wrote")
    parser.add_argument("files", nargs="+", metavar="FILE")
    arguments = parser.parse_args(argv)
    status = 0
    try:
        model = OnnxModel(arguments.model)
        model.verify()
        for file in arguments.files:
            try:
                (prediction,) = predict(file, model)
                print(json.dumps(asdict(prediction), ensure_ascii=False), flush=True)
            except AudioFileError as error:
                print(error, file=sys.stderr)
                status = 1
    except (WhisperSerError, ReferenceOutputError) as error:
        print(error, file=sys.stderr)
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
