"""Export of a model to one ONNX file, which is read back and compared with the model before it is kept."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.audio.log_mel import LogMel
from whisper_ser.data.licenses import read_license
from whisper_ser.errors import ExportError
from whisper_ser.inference.engines.exported import FORMAT, FORMAT_KEY, ExportedModel, read_metadata
from whisper_ser.inference.engines.graphs import find_graphs
from whisper_ser.inference.engines.int8 import quantize_whole_model
from whisper_ser.inference.engines.whole_model import whole_model_graph
from whisper_ser.inference.model import PRECISIONS, load_saved, settings_of, torch_weights
from whisper_ser.inference.reference_output import compute_probabilities, least_certain_waveform
from whisper_ser.inference.reference_waveform import INT8_LIMIT, TOLERANCES, VOICES, describe_waveform, waveform
from whisper_ser.io import replacing

LARGEST = 2_100_000_000
"""Bytes of weights at most: an ONNX file counts its bytes in 31 bits, 2.147e9, and has more than weights."""
LIMITS = {"float32": 1e-4, "int8": INT8_LIMIT}
"""Largest difference of a probability to the model's on synthetic voices."""

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


def export_onnx(name_or_path: str | os.PathLike, path: str | os.PathLike, precision: str = "float32") -> Exported:
    """Writes a saved model as one ONNX file, waveform in and probabilities out, and checks what was written.

    Args:
        name_or_path: of the model, a folder or a Hub id.
        path: of the file. It may replace an earlier export, and no other file.
        precision: `"float32"`, equal to the model but for rounding, or `"int8"`, smaller, faster and less exact.

    Raises:
        ExportError: the model has no form in ONNX, `path` cannot be written or holds something else, or the file
            gives other probabilities than the model. What was at `path` before is then still there.
        InferenceError, MissingWeightsError, OSError: the model is of another kind, incomplete, or not there.
    """
    path = Path(path)
    if precision not in PRECISIONS:
        raise ExportError(f"precision={precision!r} is not one of {', '.join(map(repr, PRECISIONS))}.")
    _check_target(path)
    model, extractor = load_saved(name_or_path)
    model = model.float().eval()
    _check_size(model)
    graph = _graph(model, settings_of(model, extractor).log_mel, precision)
    try:
        with replacing(path) as written:
            difference = _written(graph, written, model, extractor, precision)
        return Exported(path, precision, path.stat().st_size, difference)
    except OSError as error:
        raise ExportError(f"{path} could not be written ({error}). There is no new file.") from error


def _graph(model: WhisperForEmotionClassification, log_mel: LogMel, precision: str) -> onnx.ModelProto:
    graph = whole_model_graph(model, log_mel)
    if precision == "float32":
        return graph
    encoder = find_graphs(json.loads(model.config.to_json_string()), names=["encoder"])["encoder"]
    return quantize_whole_model(graph, encoder, torch_weights(model), log_mel)


def _check_target(path: Path) -> None:
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


def _written(
    graph: onnx.ModelProto,
    path: Path,
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    precision: str,
) -> float:
    """Writes the graph with its metadata and returns how far it is off; raises `ExportError` if too far."""
    description, probabilities = least_certain_waveform(model, extractor)
    known = {"waveform": description, "probabilities": probabilities, "tolerance": TOLERANCES[precision]}
    _save(graph, path, _metadata(model, extractor, precision, known))
    if precision == "int8":
        # What its integers give, not on this processor, but when they are multiplied as floats.
        (found,) = ExportedModel(path, exact=True).probabilities([waveform(description)])
        known["probabilities"] = dict(zip(model.config.labels, found.tolist(), strict=True))
        _save(graph, path, _metadata(model, extractor, precision, known))
    exported = ExportedModel(path)
    exported.verify()
    difference = _difference(exported, model, extractor)
    if not difference <= LIMITS[precision]:
        raise ExportError(
            f"The exported graph is off by {difference:.2g} in a probability, more than the {LIMITS[precision]:g} "
            f"that {precision} explains, and was not kept. Please report this with the model's config.json."
        )
    return difference


def _save(graph: onnx.ModelProto, path: Path, metadata: dict[str, str]) -> None:
    onnx.helper.set_model_props(graph, metadata)
    onnx.save(graph, path)
    onnx.checker.check_model(str(path), full_check=True)


def _check_size(model: WhisperForEmotionClassification) -> None:
    size = sum(4 * parameter.numel() for parameter in model.parameters())
    if size > LARGEST:
        raise ExportError(
            f"The model takes {size / 1e9:.1f} GB in ONNX, and one file holds {LARGEST / 1e9:.1f} GB at most: train "
            "on a lower layer or a smaller encoder."
        )


def _metadata(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    precision: str,
    known: dict[str, Any],
) -> dict[str, str]:
    """Returns what travels with the graph: the runner needs some of it, a person may want the rest."""
    config = model.config
    about = ("layer_indices", "layer_mixing", "pooling_type", "d_model", "frame_averaging")
    license = read_license(config)
    fields = {
        "labels": config.labels,
        "sampling_rate": extractor.sampling_rate,
        "chunk_seconds": config.chunk_seconds,
        "pad_to_seconds": extractor.pad_to_seconds,
        "precision": precision,
        "model": {name: getattr(config, name) for name in about},
        "license": asdict(license) if license else None,
        "known_answer": known,
    }
    return {FORMAT_KEY: FORMAT, **{name: json.dumps(value, ensure_ascii=False) for name, value in fields.items()}}


def _difference(
    exported: ExportedModel, model: WhisperForEmotionClassification, extractor: WhisperSerFeatureExtractor
) -> float:
    """Returns how far an export is off at most: voices of one chunk and of two, in batches."""
    voices = [waveform(describe_waveform(voice, exported.sampling_rate)) for voice in VOICES]
    clips = [voice[: round(share * len(voice))] for voice, share in zip(voices, SHARES * len(voices), strict=False)]
    differences = []
    for first in range(0, len(clips), len(SHARES)):
        batch = clips[first : first + len(SHARES)]
        expected = [list(compute_probabilities(model, extractor, clip).values()) for clip in batch]
        differences.append(float(np.abs(exported.probabilities(batch) - expected).max()))
    return max(differences)
