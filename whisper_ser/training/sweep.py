"""Which grids are sweeps of encoders, layers and poolings: the report of the paper is made of them."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.training.experiment import Experiment, new_config
from whisper_ser.training.grid import Point
from whisper_ser.training.settings import ModelArguments, metadata


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
    """Returns the settings of a model that all layers of a pooling share."""
    names = [one.name for one in fields(ModelArguments) if metadata(one)["belongs"] in ("encoder", "head", "training")]
    return {name: getattr(config, name) for name in names if name in WhisperSerConfig.__annotations__}
