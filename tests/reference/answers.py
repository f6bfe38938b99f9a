"""What the package answers: a function for each kind of answer, whose values are JSON.

`make.py` writes the values and `test_reference.py` compares them. Model folders, exported files and runs are made once
in a folder for the purpose, by `Work`.
"""

import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import inputs
import numpy as np
import subjects
import torch
from transformers import AutoModelForAudioClassification

import push_to_hub
import run_train
import whisper_ser
from modeling_whisper_ser import WhisperSerFeatureExtractor
from whisper_ser.cli import main as cli

ROOT = Path(__file__).parents[2]

Probabilities = dict[str, dict[str, float]]

TIMELINE_MODELS = ("qkv", "attentive, with deviations", "statistics")
TIMELINES: dict[str, dict[str, Any]] = {
    "usual": {},
    "short windows": {"window": 1.5, "hop": 0.4},
    "even chunks": {"cut": "even"},
}
BLOCK_SECONDS = 0.3

ABOUT = {"license": "CC0-1.0", "homepage": "https://example.org/tones", "citation": "@misc{tones, title = {Tones}}"}
TRAINING = {
    "layer_index": 2,
    "num_train_epochs": 20,
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 8,
    "input_dropout": 0.2,
}
TUNING = {
    "num_train_epochs": 20,
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 64,
    "pooling_dropout": 0.0,
}
"""Trains a saved model on, all utterances in one step and nothing dropped: no random number has a part in it."""
VARYING = ("versions", "sha256", "predictions_sha256", "training.seconds", "training.device", "model.config")
"""Keys of the metrics whose values differ from machine to machine and from version to version."""


class Work:
    """Model folders, exported files and runs, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def encoder(self) -> Path:
        return inputs.write_encoder(self.folder / "small-whisper")

    def model(self, name: str) -> Path:
        """Returns the folder of a model of `inputs.MODELS`."""
        folder = self.folder / "models" / _slug(name)
        return folder if folder.is_dir() else inputs.write_model(name, self.encoder, folder)

    def exported(self, name: str) -> Path:
        """Returns the ONNX file of that model, in float32."""
        file = self.model(name).with_suffix(".onnx")
        if not file.is_file():
            assert cli(["export", "onnx", str(self.model(name)), str(file)]) == 0
        return file

    @cached_property
    def corpus(self) -> Path:
        return inputs.write_corpus(self.folder / "tones", speakers=6, each=4, mislabelled=7)

    @cached_property
    def run(self) -> Path:
        """The folder of a training with one split: speakers 02 and 03 validate, 04 and 05 test."""
        return self._train("run", validation_speakers=["02", "03"], test_speakers=["04", "05"])

    @cached_property
    def cross_validation(self) -> Path:
        """The folder of a cross-validation that leaves each of six speakers out, two of the others validating."""
        return self._train("cross-validation", protocol="loso", validation_fraction=0.4, jobs=1)

    @cached_property
    def tuned(self) -> Path:
        """The folder of a saved model trained on, as `TUNING` has it."""
        return self._tune("tuned", self.corpus, validation_speakers=["02", "03"], test_speakers=["04", "05"])

    @cached_property
    def tuned_by_fold(self) -> Path:
        """The folder of the same by cross-validation that leaves each of three speakers out."""
        corpus = inputs.write_corpus(self.folder / "three", speakers=3, each=4, mislabelled=7)
        return self._tune("tuned-by-fold", corpus, protocol="loso", jobs=1)

    def _train(self, name: str, **settings: Any) -> Path:
        return self._run(name, **TRAINING, encoder=str(self.encoder), data_dir=str(self.corpus), **settings)

    def _tune(self, name: str, corpus: Path, **settings: Any) -> Path:
        saved = self.folder / "two-labels"
        if not saved.is_dir():
            inputs.write_model("qkv", self.encoder, saved, ["calm", "excited"])
        return self._run(name, **TUNING, model_name_or_path=str(saved), data_dir=str(corpus), **settings)

    def _run(self, name: str, **settings: Any) -> Path:
        output, recipe = self.folder / name, self.folder / f"{name}.json"
        paths = {"output_dir": str(output), "feature_dir": str(self.folder / "features")}
        recipe.write_text(json.dumps({**settings, **paths}))
        run_train.main([str(recipe)])
        return output


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def clips() -> dict[str, np.ndarray]:
    return {name: inputs.voice(*voice) for name, voice in inputs.WAVEFORMS.items()}


@torch.no_grad()
def plain_predictions(work: Work, name: str) -> Probabilities:
    """Returns the probabilities of each waveform by the stock classes, each clip alone."""
    model = AutoModelForAudioClassification.from_pretrained(work.model(name)).eval()
    extractor = WhisperSerFeatureExtractor.from_pretrained(work.model(name))
    return {
        clip: _rounded(dict(zip(model.config.labels, _softmax(model, extractor, audio), strict=True)))
        for clip, audio in clips().items()
    }


def _softmax(model: Any, extractor: WhisperSerFeatureExtractor, audio: np.ndarray) -> list[float]:
    features = extractor(audio, sampling_rate=inputs.RATE, return_tensors="pt")
    return model(**features).logits[0].softmax(-1).tolist()


def predictions(work: Work, name: str) -> Probabilities:
    """Returns the probabilities of each waveform by `whisper_ser.predict` on the folder, all clips at once."""
    return _predicted(work.model(name))


def exported_predictions(work: Work, name: str) -> Probabilities:
    """Returns the probabilities of each waveform by `whisper_ser.predict` on the ONNX file, all clips at once."""
    return _predicted(work.exported(name))


def _predicted(model: Path) -> Probabilities:
    found = whisper_ser.predict(list(clips().values()), model, device="cpu")
    return {clip: _rounded(one.probabilities) for clip, one in zip(clips(), found, strict=True)}


def timeline(work: Work, model: str, name: str) -> dict[str, Any]:
    """Returns windows, segments and the whole of the recording."""
    found = whisper_ser.timeline(inputs.recording(), work.model(model), device="cpu", **TIMELINES[name])
    return {
        "seconds": found.seconds,
        "window": found.window,
        "hop": found.hop,
        "labels": found.labels,
        "whole": _rounded(found.whole),
        "windows": _spans(found.windows),
        "segments": _spans(found.segments),
    }


def updates(work: Work, model: str) -> list[dict[str, Any]]:
    """Returns the updates of a stream of the recording, with the seconds fed by then; empty ones are left out."""
    audio, size = inputs.recording(), round(BLOCK_SECONDS * inputs.RATE)
    emotions = whisper_ser.EmotionStream(whisper_ser.load_model(work.model(model), "cpu"))
    told = []
    for begin in range(0, len(audio), size):
        update = emotions.feed(audio[begin : begin + size])
        told.append((emotions.seconds, update))
    told.append((emotions.seconds, emotions.finish()))
    return [
        {"fed": round(fed, 3), "windows": _spans(update.windows), "segments": _spans(update.segments)}
        for fed, update in told
        if update.windows or update.segments
    ]


def _spans(spans: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "start": round(span.start, 3),
            "end": round(span.end, 3),
            "label": span.label,
            "probabilities": _rounded(span.probabilities),
        }
        for span in spans
    ]


def _rounded(probabilities: dict[str, float] | None) -> dict[str, float] | None:
    return probabilities and {label: round(value, 6) for label, value in sorted(probabilities.items())}


def folds(protocol: str, corpus: str) -> dict[str, Any]:
    """Returns the paths of each part of each fold, joined by spaces, for two seeds, without and with validation."""
    return {
        f"seed {seed}, validation {fraction}": {
            fold.name: {part: " ".join(paths) for part, paths in subjects.paths_by_part(fold).items()}
            for fold in subjects.cut(inputs.CORPORA[corpus], protocol, seed, fraction)
        }
        for seed in (0, 42)
        for fraction in (0.0, 0.3)
    }


def findings(work: Work) -> dict[str, Any]:
    """Returns what the audit finds in a corpus whose folds share what they must not."""
    folder = work.folder / "leaky"
    return subjects.findings(folder if folder.is_dir() else inputs.write_leaky_corpus(folder))


def metrics(run: Path) -> dict[str, Any]:
    """Returns `metrics.json` of a run, without values that differ from machine to machine."""
    found = json.loads((run / "metrics.json").read_text())
    for path in VARYING:
        *parents, name = path.split(".")
        holder = found
        for parent in parents:
            holder = holder[parent]
        holder.pop(name)
    return found


def schema(run: Path) -> list[str]:
    """Returns the paths of all keys of `metrics.json`, the items of a list alike, with the types of the values."""
    found = json.loads((run / "metrics.json").read_text())
    del found["model"]["config"]  # has the fields of the model and of transformers
    return sorted(set(_keys(found, "")))


def _keys(value: Any, path: str) -> list[str]:
    if isinstance(value, dict):
        return [key for name, one in value.items() for key in _keys(one, f"{path}.{name}" if path else name)]
    if isinstance(value, list) and value:
        return [key for one in value for key in _keys(one, f"{path}[]")]
    kind = "null" if value is None else {int: "number", float: "number"}.get(type(value), type(value).__name__)
    return [f"{path}: {kind}"]


def card(run: Path) -> str:
    """Returns the model card that a run wrote, without what varies."""
    return normalised((run / "model" / "README.md").read_text())


def published_card(work: Work) -> str:
    """Returns the card that is published with a cross-validation, without what varies."""
    about, file = work.folder / "about.json", work.folder / "card.md"
    about.write_text(json.dumps(ABOUT))
    results = str(work.cross_validation / "metrics.json")
    where = ["--repo_id", "user/tones", "--dry_run", "--card", str(file)]
    push_to_hub.main([str(work.run / "model"), *where, "--results", results, "--about_corpus", str(about)])
    return normalised(file.read_text())


RESULTS = re.compile(r"^\||value: |^a, s, h|calibration error|^utterances, in|temperature|validation utterances")
"""Lines of a card whose fractions depend on the weights."""
VOLATILE = (
    (r"\b[0-9a-f]{64}\b", "SHA256"),
    (r"(whisper-ser|torch|transformers) \d+(\.\w+)+(\+\w+)?", r"\1 VERSION"),
    (r"\d+ s on [^(;.]+?(?= \(|[;.])", "N s on DEVICE"),
    (r"^(\| \*\*\w+\*\*)( \| \d+)+ ", r"\1 | COUNTS "),
)
"""Patterns of what differs from machine to machine and from version to version, and what stands for it."""


def normalised(text: str) -> str:
    lines = [_normalised(line) for line in text.splitlines(keepends=True)]
    # How many rows the table of answered utterances has depends on the probabilities.
    return re.sub(r"(\| N\.N \| N\.N \| N\.N \|\n)+", r"\1", "".join(lines))


def _normalised(line: str) -> str:
    for pattern, replacement in VOLATILE:
        line = re.sub(pattern, replacement, line)
    return re.sub(r"-?\d+\.\d+", "N.N", line) if RESULTS.search(line) else line


def recipes(work: Work) -> dict[str, Any]:
    """Returns the settings of each recipe that are not defaults."""
    files = sorted((ROOT / "recipes").rglob("*.json"))
    return {str(file.relative_to(ROOT / "recipes")): subjects.settings(file) for file in files}


RUNS = ("run", "cross_validation", "tuned", "tuned_by_fold")

ANSWERS: dict[str, Callable[[Work], Any]] = {
    "predictions.json": lambda work: {name: plain_predictions(work, name) for name in inputs.MODELS},
    "timelines.json": lambda work: {
        model: {name: timeline(work, model, name) for name in TIMELINES} for model in TIMELINE_MODELS
    },
    "streams.json": lambda work: {model: updates(work, model) for model in TIMELINE_MODELS},
    "folds.json": lambda work: {
        f"{protocol} of {corpus}": folds(protocol, corpus) for protocol, corpus in inputs.CUTS
    },
    "audit.json": findings,
    **{f"metrics_{run}.json": lambda work, run=run: metrics(getattr(work, run)) for run in RUNS},
    "schema_run.txt": lambda work: schema(work.run),
    "schema_cross_validation.txt": lambda work: schema(work.cross_validation),
    "card_run.md": lambda work: card(work.run),
    "card_published.md": published_card,
    "recipes.json": recipes,
}
"""What each file of the reference holds."""
