"""A model to an ONNX file that was read back and answered as the model does, or to no file."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from modeling_whisper_ser.packed_encoder_whisper_ser import PackedEncoder

from whisper_ser.data.licenses import read_license
from whisper_ser.errors import ExportError
from whisper_ser.inference.engines.graph import model_graph
from whisper_ser.inference.engines.onnx_runtime import (
    AUDIO,
    FORMAT,
    FORMAT_KEY,
    LENGTHS,
    PROBABILITIES,
    OnnxModel,
    read_metadata,
)
from whisper_ser.inference.engines.products import PRECISIONS, products
from whisper_ser.inference.model import Recognizer, load_model
from whisper_ser.inference.reference_output import least_certain_waveform
from whisper_ser.inference.reference_waveform import VOICES, describe_waveform, waveform
from whisper_ser.io import replacing

LARGEST = 2_100_000_000
"""Bytes of weights at most: an ONNX file counts its bytes in 31 bits, 2.147e9, and has more than weights."""
LIMITS = {"float32": 1e-4, "int8": 0.15}
"""Difference of a probability to the model's on synthetic voices: the largest in float32. In int8 the mean of each
voice's largest (0.03 on whisper-base): a voice between two labels may be off by far more than others."""
TOLERANCES = {"float32": 1e-3, "int8": 0.02}
"""Largest difference on another machine: rounding, and in int8 what rounding makes of numbers between two steps."""

SHARES = (1.0, 0.05, 0.42, 0.71)
"""Of each reference voice that is compared, one after the other and then over again: whole, and part of a chunk."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: the file.
        precision: `"float32"` or `"int8"`.
        size: bytes.
        difference: of a probability to the model's on synthetic voices, as in `LIMITS`.
    """

    path: Path
    precision: str
    size: int
    difference: float


def export_onnx(
    model: str | os.PathLike | Recognizer, path: str | os.PathLike, precision: str = "float32"
) -> Exported:
    """Writes a model as one ONNX file, waveform in and probabilities out, and checks what was written.

    Args:
        model: a folder, a Hub id, or what `load_model` returned, on a CPU and not packed.
        path: of the file. It may replace an earlier export, and no other file.
        precision: `"float32"`, equal to the model but for rounding, or `"int8"`, smaller, faster and less exact.

    Raises:
        ExportError: the model has no form in ONNX, `path` cannot be written or holds something else, or the file
            answers otherwise than the model. What was at `path` before is then still there.
        InferenceError, MissingWeightsError, OSError: the model is of another kind, incomplete, or not there.
    """
    path = Path(path)
    if precision not in PRECISIONS:
        raise ExportError(f"precision={precision!r} is not one of {', '.join(map(repr, PRECISIONS))}.")
    check_target(path)
    ready = model if isinstance(model, Recognizer) else load_model(model, "cpu")
    if isinstance(ready.model.whisper_ser.encoder, PackedEncoder):
        raise ExportError("A packed model has no form in ONNX: export the model that it was made of.")
    graph = model_graph(ready.model, ready.extractor, products(ready, precision))
    try:
        with replacing(path) as written:
            difference = _written(graph, written, ready, precision)
        return Exported(path, precision, path.stat().st_size, difference)
    except OSError as error:
        raise ExportError(f"{path} could not be written ({error}). There is no new file.") from error


def check_target(path: Path) -> None:
    """Raises `ExportError` if there is something at `path` that is no earlier export."""
    if not path.exists():
        return
    refusal = f"{path} exists and is not a model that was exported before: give another path, or remove it."
    if not path.is_file():
        raise ExportError(refusal)
    try:
        found = onnx.load(path, load_external_data=False)
        read_metadata({entry.key: entry.value for entry in found.metadata_props}, path)
    except Exception as error:  # what is no ONNX file fails in types of protobuf's
        raise ExportError(refusal) from error


def _written(graph: onnx.ModelProto, path: Path, recognizer: Recognizer, precision: str) -> float:
    """Writes the graph with its metadata and returns how far it is off; raises `ExportError` if too far."""
    _check_size(graph)
    asked, _ = least_certain_waveform(recognizer.model, recognizer.extractor)
    known = {
        "waveform": asked,
        "probabilities": _answer(graph, waveform(asked), recognizer.labels),
        "tolerance": TOLERANCES[precision],
    }
    onnx.helper.set_model_props(graph, _metadata(recognizer, precision, known))
    onnx.save(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    exported = OnnxModel(path)
    exported.verify()
    difference = _difference(exported, recognizer)
    if not difference <= LIMITS[precision]:
        raise ExportError(
            f"The exported graph is off by {difference:.2g} in a probability, more than the {LIMITS[precision]:g} "
            "that rounding explains, and was not kept. Please report this with the model's config.json."
        )
    return difference


def _check_size(graph: onnx.ModelProto) -> None:
    size = sum(len(constant.raw_data) for constant in graph.graph.initializer)
    if size > LARGEST:
        raise ExportError(
            f"The model takes {size / 1e9:.1f} GB in ONNX, and one file holds {LARGEST / 1e9:.1f} GB at most: export "
            "it as int8, or train on a lower layer or a smaller encoder."
        )


def _answer(graph: onnx.ModelProto, audio: np.ndarray, labels: list[str]) -> dict[str, float]:
    """Returns the probability of each label that the graph, not yet written, gives to `audio` `(samples,)`."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {AUDIO: audio[None], LENGTHS: np.array([len(audio)], dtype=np.int64)}
    ((probabilities,),) = session.run([PROBABILITIES], given)
    return {label: round(float(value), 6) for label, value in zip(labels, probabilities, strict=True)}


def _metadata(recognizer: Recognizer, precision: str, known: dict[str, Any]) -> dict[str, str]:
    """Returns what travels with the graph: the runner needs some of it, a person may want the rest."""
    config, extractor = recognizer.model.config, recognizer.extractor
    model = {
        name: getattr(config, name)
        for name in ("layer_indices", "layer_mixing", "pooling_type", "d_model", "frame_averaging")
    }
    license = read_license(config)
    fields = {
        "labels": config.labels,
        "sampling_rate": extractor.sampling_rate,
        "chunk_seconds": config.chunk_seconds,
        "pad_to_seconds": extractor.pad_to_seconds,
        "precision": precision,
        "model": model,
        "license": asdict(license) if license else None,
        "known_answer": known,
    }
    return {FORMAT_KEY: FORMAT, **{name: json.dumps(value, ensure_ascii=False) for name, value in fields.items()}}


def _difference(exported: OnnxModel, recognizer: Recognizer) -> float:
    """Returns how far an export is off: voices of one chunk and of two, in batches."""
    rate = exported.sampling_rate
    voices = [waveform(describe_waveform(voice, rate)) for voice in VOICES]
    clips = [voice[: round(share * len(voice))] for voice, share in zip(voices, SHARES * len(voices), strict=False)]
    largest = []
    for first in range(0, len(clips), len(SHARES)):
        batch = clips[first : first + len(SHARES)]
        expected = recognizer.classify(recognizer.features(batch))
        largest += np.abs(exported.probabilities(batch) - expected).max(1).tolist()
    return max(largest) if exported.metadata["precision"] == "float32" else sum(largest) / len(largest)
