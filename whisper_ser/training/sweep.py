"""The results of a sweep, a grid of encoders, layers and poolings: what the report of the paper is made of."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.evaluation.results import PREDICTIONS, read_metrics
from whisper_ser.io import replacing
from whisper_ser.training.experiment import Experiment, new_config
from whisper_ser.training.grid import Point, folder_name
from whisper_ser.training.runs import Run
from whisper_ser.training.settings import ModelArguments, metadata

RESULTS = "results.json"


def is_sweep(experiment: Experiment, points: Sequence[Point]) -> bool:
    """Returns whether encoders, single layers and poolings vary, and nothing else but settings of each pooling."""
    if not experiment.arguments.grid.grid:
        return False
    told = {one.name for one in fields(ModelArguments) if metadata(one)["belongs"] == "head"}
    if {name for point in points for name in point.own} - told - {"encoder", "layers"}:
        return False
    configs = [new_config(experiment, point.arguments) for point in points]
    if any(config is None or config.ensemble or len(config.layer_indices) > 1 for config in configs):
        return False
    cells = [
        (point.arguments.model.encoder, config.layer_index, config.pooling_type, model_fields(config))
        for point, config in zip(points, configs, strict=True)
        if config
    ]
    heads = {pooling: told for *_, pooling, told in cells}
    return len({cell[:3] for cell in cells}) == len(cells) and all(heads[cell[2]] == cell[3] for cell in cells)


def model_fields(config: WhisperSerConfig) -> dict[str, Any]:
    """Returns the fields of a model that a report of a sweep shows: those that its layer does not tell."""
    names = [one.name for one in fields(ModelArguments) if metadata(one)["belongs"] in ("encoder", "head", "training")]
    return {name: getattr(config, name) for name in names if name in WhisperSerConfig.__annotations__}


def write_sweep_results(
    folder: Path, experiment: Experiment, points: Sequence[Point], trained: Sequence[Sequence[Run]]
) -> dict[str, Any]:
    """Writes `results.json` and returns its content: the protocol, and the metrics of each run."""
    names: dict[str, str] = {}
    cells, models, encoders, seconds = [], {}, {}, 0.0
    for point, runs in zip(points, trained, strict=True):
        config, encoder = runs[0].config, point.arguments.model.encoder or ""
        if config is None:
            raise ValueError("A sweep trains new models on frozen encoders.")
        short = Path(encoder).name
        name = names.setdefault(encoder, folder_name(encoder) if short in names.values() else short)
        encoders[name] = config.encoder_config.to_diff_dict()
        models[config.pooling_type] = model_fields(config)
        for run in runs:
            metrics = read_metrics(run.folder, needs_seal=True)
            seconds += metrics["training"]["seconds"]
            cells.append(
                {
                    "encoder": name,
                    "layer": config.layer_index,
                    "num_layers": config.encoder_config.encoder_layers,
                    "pooling": config.pooling_type,
                    "seed": run.arguments.training.seed,
                    "fold": experiment.folds[run.fold].name,
                    **{part: metrics[part] for part in ("test", "validation", "history")},
                    "predictions": str((run.folder / PREDICTIONS).relative_to(folder)),
                }
            )
    arguments = experiment.arguments
    results = {
        "corpus": metrics["corpus"],
        "labels": metrics["labels"],
        "protocol": {
            "name": experiment.protocol,
            "selection": arguments.training.selection,
            "refit": arguments.training.refit,
            "seeds": arguments.seeds,
            "folds": [fold.name for fold in experiment.folds],
            "pad_to_seconds": arguments.model.pad_to_seconds,
        },
        "models": models,
        "audit": asdict(experiment.audit),
        "warnings": list(experiment.warnings),
        "training": {**metrics["training"], "seconds": round(seconds, 1)},
        "versions": metrics["versions"],
        "encoders": [{"name": name, "config": config} for name, config in encoders.items()],
        "cells": cells,
    }
    with replacing(folder / RESULTS) as path:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results
