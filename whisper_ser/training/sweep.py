"""Layer by layer, pooling by pooling: every setting trained on every fold, from one encoder pass a group of layers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState
from tqdm import tqdm
from transformers import WhisperConfig

from modeling_whisper_ser import WhisperSerConfig
from modeling_whisper_ser.encoder_whisper_ser import load_whisper_config
from whisper_ser.data.audio_index import AudioRecord
from whisper_ser.data.leakage import AuditResult
from whisper_ser.data.splits import Fold, training_paths
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.errors import RecipeError
from whisper_ser.evaluation.results import PREDICTIONS, read_metrics
from whisper_ser.io import replacing
from whisper_ser.training.identity import note_settings, run_identity, sample_hashes
from whisper_ser.training.models import build_model, config_fields
from whisper_ser.training.runs import Run, RunContext, fold_folder, folder_name, train_runs
from whisper_ser.training.settings import OF_THE_HEAD, Arguments
from whisper_ser.training.trainer import prepare_inputs

RESULTS = "results.json"
OF_THE_MODEL = ("pooling_type", "channel_standardisation", "chunk_seconds", "frame_averaging", *OF_THE_HEAD)
"""Fields of the models' config that a report tells; they are one for each pooling."""


class Encoder(NamedTuple):
    """One encoder of a sweep.

    Attributes:
        asked: Hub id or folder, as it was given.
        name: short and unique.
        config: of the whole Whisper model.
        layers: to be read, ascending.
    """

    asked: str
    name: str
    config: WhisperConfig
    layers: list[int]


class Variant(NamedTuple):
    """What tells a run of a sweep from the others."""

    encoder: Encoder
    layer: int
    pooling: str
    seed: int
    run: Run


def sweep(
    folds: Sequence[Fold],
    records: Mapping[str, AudioRecord],
    audited: AuditResult,
    warnings: list[str],
    arguments: Arguments,
) -> dict[str, Any]:
    """Trains every setting on every fold; writes and returns `output_dir/results.json`.

    Each run has a folder of its own in `output_dir/cells`. Those that are there, of the same data and settings, are
    not trained again: an interrupted sweep goes on, and one with more layers, poolings, encoders or seeds trains what
    is new.

    Raises:
        CheckpointError: `output_dir` holds a sweep with other settings.
        RecipeError: a layer that an encoder does not have.
    """
    process, output_dir = PartialState(), Path(arguments.training.output_dir)
    with process.main_process_first():
        note_settings(output_dir / "cells", arguments, {})
    variants = _variants(folds, records, arguments)
    todo = [variant for variant in variants if not variant.run.done]
    if todo and process.is_main_process:
        hours = sum(record.seconds for record in records.values()) / 3600
        print(f"{len(todo)} trainings on {hours:.2f} hours of audio", flush=True)
    done = len(variants) - len(todo)
    silent = not process.is_main_process
    with tqdm(total=len(variants), initial=done, desc="sweep", unit="training", disable=silent) as bar:
        for encoder in dict.fromkeys(variant.encoder.name for variant in todo):
            of_encoder = [variant for variant in todo if variant.encoder.name == encoder]
            layers = sorted({variant.layer for variant in of_encoder})
            _train(layers, of_encoder, folds, records, arguments, bar)
    results = _results(variants, folds, audited, warnings, arguments)
    if process.is_main_process:
        with replacing(output_dir / RESULTS) as path:
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def _variants(folds: Sequence[Fold], records: Mapping[str, AudioRecord], arguments: Arguments) -> list[Variant]:
    labels = folds[0].split.train.features["emotion"].names
    poolings = arguments.sweep.poolings or [arguments.model.pooling_type or WhisperSerConfig.pooling_type]
    variants, hashes = [], sample_hashes(records)
    for encoder in _encoders(arguments):
        for layer in encoder.layers:
            for pooling in poolings:
                fields: dict[str, Any] = {"encoder": encoder.asked, "layer_index": layer, "pooling_type": pooling}
                model = replace(arguments.model, **fields, **arguments.sweep.settings_of(pooling))
                names = dict(enumerate(labels))
                config = WhisperSerConfig(encoder_config=encoder.config, id2label=names, **config_fields(model))
                for seed in arguments.sweep.seeds or [arguments.training.seed]:
                    of_seed = arguments._replace(model=model).with_seed(seed)
                    folder = Path(arguments.training.output_dir) / "cells" / encoder.name / f"layer-{layer:02d}"
                    folder = folder / pooling / f"seed-{seed}"
                    for number, fold in enumerate(folds):
                        what = run_identity(of_seed, fold.split, hashes)
                        run = Run(folder / fold_folder(number, fold.name), number, config, of_seed, what)
                        variants.append(Variant(encoder, layer, pooling, seed, run))
    return variants


def _encoders(arguments: Arguments) -> list[Encoder]:
    encoders: list[Encoder] = []
    for asked in arguments.sweep.encoders or [arguments.model.encoder or ""]:
        config = load_whisper_config(resolve_encoder(asked))
        name = Path(asked).name
        if name in {encoder.name for encoder in encoders}:
            name = folder_name(asked)
        encoders.append(Encoder(asked, name, config, _layers(arguments, name, config.encoder_layers)))
    return encoders


def _layers(arguments: Arguments, encoder: str, total: int) -> list[int]:
    if arguments.model.layer_indices:
        return arguments.model.layer_indices[-1:]
    if not arguments.sweep.layers:
        usual = WhisperSerConfig(encoder_config=WhisperConfig(encoder_layers=total)).layer_index
        return [arguments.model.layer_index or usual]
    if "all" in arguments.sweep.layers:
        return list(range(1, total + 1))
    layers = sorted({int(layer) for layer in arguments.sweep.layers})
    if layers[-1] > total:
        raise RecipeError(f"--layers {layers[-1]}: {encoder} has {total} encoder layers.")
    return layers


def _train(
    layers: list[int],
    variants: list[Variant],
    folds: Sequence[Fold],
    records: Mapping[str, AudioRecord],
    arguments: Arguments,
    bar: tqdm,
) -> None:
    """Trains the runs of one encoder."""
    labels = folds[0].split.train.features["emotion"].names
    reaching = replace(variants[0].run.arguments.model, layer_index=layers[-1])
    model, extractor = build_model(reaching, labels)
    read = sorted({layer for v in variants for layer in (v.run.config.layer_indices if v.run.config else [])})
    store = Path(arguments.data.feature_dir)
    copies, refit = arguments.training.augmented_views, arguments.training.refit
    trained = training_paths(folds, refit) if copies else ()
    inputs = prepare_inputs(model, extractor, records, store, read, copies, trained)
    by_folder = {variant.run.folder: variant for variant in variants}
    runs = [variant.run for variant in variants]
    context = RunContext(folds, inputs, extractor, curves=True)
    for run, metrics in train_runs(runs, context, arguments.sweep.jobs):
        done = by_folder[run.folder]
        if metrics:
            bar.set_postfix_str(f"layer {done.layer} {done.pooling}: UA {100 * metrics['test']['ua']:.1f}")
        bar.update()


def _results(
    variants: list[Variant],
    folds: Sequence[Fold],
    audited: AuditResult,
    warnings: list[str],
    arguments: Arguments,
) -> dict[str, Any]:
    """Returns what a report is made of: the protocol, and the figures of each run."""
    output_dir = Path(arguments.training.output_dir)
    runs, seconds = [], 0.0
    for variant in variants:
        metrics = read_metrics(variant.run.folder, needs_seal=True)
        seconds += metrics["training"]["seconds"]
        runs.append(
            {
                "encoder": variant.encoder.name,
                "layer": variant.layer,
                "num_layers": variant.encoder.config.encoder_layers,
                "pooling": variant.pooling,
                "seed": variant.seed,
                "fold": folds[variant.run.fold].name,
                "test": metrics["test"],
                "validation": metrics["validation"],
                "history": metrics["history"],
                "predictions": str((variant.run.folder / PREDICTIONS).relative_to(output_dir)),
            }
        )
    return {
        "corpus": metrics["corpus"],
        "labels": metrics["labels"],
        "protocol": {
            "name": arguments.data.protocol,
            "selection": arguments.training.selection,
            "refit": arguments.training.refit,
            "seeds": arguments.sweep.seeds or [arguments.training.seed],
            "folds": [fold.name for fold in folds],
            "pad_to_seconds": arguments.model.pad_to_seconds,
        },
        "models": {
            variant.pooling: {name: getattr(variant.run.config, name) for name in OF_THE_MODEL} for variant in variants
        },
        "audit": asdict(audited),
        "warnings": warnings,
        "training": {**metrics["training"], "seconds": round(seconds, 1)},
        "versions": metrics["versions"],
        "encoders": [
            {"name": encoder.name, "config": encoder.config.to_diff_dict()}
            for encoder in {variant.encoder.name: variant.encoder for variant in variants}.values()
        ],
        "cells": runs,
    }
