"""The reference output of a saved model: anyone can check with it that they have the model that was saved.

`known_answer.json` describes a waveform by a formula, so that no recording is needed, and holds the probabilities that
the model gives for it and the SHA-256 of weights and settings. Hashes must match exactly; probabilities are compared
within a tolerance, because other machines, numbers of threads and batch shapes round differently.
"""

import contextlib
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_ser.inference.reference_waveform import (
    VOICES,
    ReferenceOutputError,
    describe_waveform,
    is_reference_output,
    waveform,
)
from whisper_ser.io import cache_folder, file_sha256, replacing

if TYPE_CHECKING:
    from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor

REFERENCE_OUTPUT = "known_answer.json"
"""The file's name in published models."""
WEIGHTS = "*.safetensors"
SETTINGS = ("config.json", "preprocessor_config.json")
"""Files other than the weights that change the output."""

TOLERANCE = 1e-3
"""Largest difference of a probability, in float32 and with any runtime. Threads, batches and attention kernels changed
those of a model on whisper-base by 1e-6 at most, float16 by 1.4e-3, bfloat16 by 5e-2."""


def write_reference_output(folder: Path) -> None:
    """Writes `known_answer.json` beside the model and the feature extractor saved in `folder`."""
    description, probabilities = least_certain_waveform(*_load(folder))
    _write(
        folder,
        {
            "waveform": description,
            "probabilities": probabilities,
            "tolerance": TOLERANCE,
            "sha256": weight_hashes(folder),
            "settings_sha256": {name: file_sha256(folder / name) for name in SETTINGS},
        },
    )


def replace_setting(folder: Path, name: str, value: Any) -> None:
    """Sets a field of `config.json` that does not change the output, and updates its hash in the reference output.

    Raises:
        ReferenceOutputError: the settings in `folder` had been changed before.
    """
    reference = read_reference_output(folder)
    check_settings(folder, reference)
    path = folder / "config.json"
    settings = {**json.loads(path.read_text(encoding="utf-8")), name: value}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if path.name in reference.get("settings_sha256", {}):
        reference["settings_sha256"][path.name] = file_sha256(path)
        _write(folder, reference)


def least_certain_waveform(
    model: "WhisperForEmotionClassification", extractor: "WhisperSerFeatureExtractor"
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns the description of one of the `VOICES`, and the model's probability of each label for it.

    It is the voice that the model is least certain of: where a model is certain, very different weights would give
    the same output.
    """
    outputs = []
    for voice in VOICES:
        description = describe_waveform(voice, extractor.sampling_rate)
        outputs.append((description, compute_probabilities(model, extractor, waveform(description))))
    return min(outputs, key=lambda output: max(output[1].values()))


def read_reference_output(folder: Path) -> dict[str, Any]:
    """Returns the reference output of the model in `folder`.

    Raises:
        ReferenceOutputError: there is none, or it is not readable.
    """
    path = folder / REFERENCE_OUTPUT
    if not path.is_file():
        raise ReferenceOutputError(
            f"{folder} has no {REFERENCE_OUTPUT}: only a model that run_train.py saved can be checked."
        )
    try:
        reference = json.loads(path.read_text(encoding="utf-8"))
        hashes = isinstance(reference["sha256"], dict) and isinstance(reference.get("settings_sha256", {}), dict)
        readable = hashes and is_reference_output(reference)
    except (ValueError, KeyError, TypeError, RecursionError):
        readable = False
    if not readable:
        raise ReferenceOutputError(
            f"{path} is damaged: expected what run_train.py writes. Download or save the model again."
        )
    return reference


def _write(folder: Path, reference: Mapping[str, Any]) -> None:
    text = json.dumps(reference, indent=2, ensure_ascii=False) + "\n"
    (folder / REFERENCE_OUTPUT).write_text(text, encoding="utf-8")


def compute_output(folder: Path, audio: np.ndarray) -> dict[str, float]:
    """Returns the probability of each label that the model in `folder` gives for `audio` `(samples,)`, on the CPU."""
    return compute_probabilities(*_load(folder), audio)


def _load(folder: Path) -> tuple["WhisperForEmotionClassification", "WhisperSerFeatureExtractor"]:
    import torch

    from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor

    model = WhisperForEmotionClassification.from_pretrained(folder, dtype=torch.float32)
    return model, WhisperSerFeatureExtractor.from_pretrained(folder)


def compute_probabilities(
    model: "WhisperForEmotionClassification", extractor: "WhisperSerFeatureExtractor", audio: np.ndarray
) -> dict[str, float]:
    """Returns the probability of each label that a model of torch gives for `audio` `(samples,)`."""
    import torch

    with torch.inference_mode():
        logits = model(**extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="pt")).logits[0]
    probabilities = [round(value, 6) for value in logits.double().softmax(-1).tolist()]
    return dict(zip(model.config.labels, probabilities, strict=True))


def weight_hashes(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each weight file in `folder`, by its name."""
    return {path.name: file_sha256(path) for path in sorted(folder.glob(WEIGHTS))}


def check_as_saved(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of weights and settings in `folder`, by the files' names.

    Raises:
        ReferenceOutputError: `folder` has a reference output, and weights or settings do not match it.
    """
    reference = read_reference_output(folder) if (folder / REFERENCE_OUTPUT).is_file() else None
    weights = check_weights(folder, reference) if reference else weight_hashes(folder)
    if reference:
        check_settings(folder, reference)
    return weights | {name: file_sha256(folder / name) for name in SETTINGS if (folder / name).is_file()}


def check_settings(folder: Path, reference: Mapping[str, Any]) -> None:
    """Raises `ReferenceOutputError` unless the settings in `folder` have the hashes of the reference output."""
    for name, expected in reference.get("settings_sha256", {}).items():  # earlier versions stored none
        path = folder / name
        if name not in SETTINGS or not path.is_file() or file_sha256(path) != expected:
            raise ReferenceOutputError(
                f"{path} is not the file that was saved with the model. Download the model again; if you changed the "
                f"file on purpose, delete {REFERENCE_OUTPUT}, which no longer belongs to the model."
            )


def check_weights(folder: Path, reference: Mapping[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of each weight file in `folder`, by its name.

    Raises:
        ReferenceOutputError: they are not those of the reference output.
    """
    found, expected = weight_hashes(folder), reference["sha256"]
    if not expected or found != expected:
        changed = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ReferenceOutputError(
            f"The weights in {folder} are not those that were saved: {', '.join(changed) or 'none are named'}. "
            f"Expected SHA-256 {_hashes(expected)}; found {_hashes(found)}. Do not use the model; download it again."
        )
    return found


def _hashes(hashes: Mapping[str, str]) -> str:
    return ", ".join(f"{sha256} ({name})" for name, sha256 in sorted(hashes.items())) or "none"


def check_marker(content: Sequence[str]) -> Path:
    """Returns the file whose presence says that a model gave its reference output on this machine.

    Args:
        content: hashes of all files that the output depends on; processor and version of ONNX Runtime are added.
    """
    import onnxruntime

    content = [*content, onnxruntime.__version__, platform.machine(), processor()]
    return cache_folder() / "checked" / hashlib.sha256(json.dumps(content).encode()).hexdigest()


def set_marker(marker: Path) -> None:
    """Writes the file; where the cache cannot be written, the model is checked each time."""
    with contextlib.suppress(OSError), replacing(marker) as written:
        written.touch()


def processor() -> str:
    """Returns what the processor calls itself and its instruction sets, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
