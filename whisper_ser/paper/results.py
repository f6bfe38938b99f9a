"""A sweep's cells in order: what is there, what is missing, and figures over folds and seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from transformers import WhisperConfig

from modeling_whisper_ser import WhisperSerConfig
from modeling_whisper_ser.configuration_whisper_ser import POOLING_TYPES
from whisper_ser.errors import WhisperSerError
from whisper_ser.evaluation.metrics import METRICS, class_recall, summarise_folds, summarise_seeds

Cell = dict[str, Any]
Run = tuple[int, str]
"""Seed and fold."""


class ReportError(WhisperSerError, ValueError):
    """Results that no report can be made of, or a place where none can be written."""


class Setting(NamedTuple):
    """What is trained once for every seed and fold."""

    encoder: str
    layer: int
    pooling: str


class Spread(NamedTuple):
    """Mean over all folds and seeds; standard deviation over folds (mean of the seeds'); over seeds, if several."""

    mean: float
    std: float
    seed_std: float | None


@dataclass(frozen=True)
class Sweep:
    """The cells of `results` by setting and run."""

    results: dict[str, Any]
    cells: dict[Setting, dict[Run, Cell]]

    @property
    def runs(self) -> list[Run]:
        """Every seed with every fold, as planned."""
        protocol = self.results["protocol"]
        return [(seed, fold) for seed in protocol["seeds"] for fold in protocol["folds"]]

    @property
    def encoders(self) -> list[str]:
        return [encoder["name"] for encoder in self.results["encoders"]]

    @property
    def poolings(self) -> list[str]:
        present = {setting.pooling for setting in self.cells}
        return [*(name for name in POOLING_TYPES if name in present), *sorted(present - {*POOLING_TYPES})]

    @property
    def labels(self) -> list[str]:
        return self.results["labels"]

    def config(self, encoder: str) -> dict[str, Any]:
        """Returns the `WhisperConfig` of an encoder, as a dict."""
        return next(one["config"] for one in self.results["encoders"] if one["name"] == encoder)

    def model_config(self, encoder: str, layer: int, pooling: str) -> WhisperSerConfig:
        """Returns the config of a model of this sweep."""
        labels = dict(enumerate(self.labels))
        fields = self.results["models"][pooling]
        return WhisperSerConfig(
            encoder_config=WhisperConfig(**self.config(encoder)), layer_index=layer, id2label=labels, **fields
        )

    def layers(self, encoder: str) -> list[int]:
        """Returns the layers that have a cell in any pooling."""
        return sorted({setting.layer for setting in self.cells if setting.encoder == encoder})

    def settings(self, encoder: str, pooling: str | None = None) -> list[Setting]:
        """Returns the settings of an encoder, by pooling and then layer, cells or none."""
        poolings = self.poolings if pooling is None else [pooling]
        return [Setting(encoder, layer, name) for name in poolings for layer in self.layers(encoder)]

    def complete(self, settings: list[Setting]) -> list[Setting]:
        """Returns those of the settings that have every run."""
        return [setting for setting in settings if len(self.cells.get(setting, {})) == len(self.runs)]

    def missing(self) -> dict[Setting, list[Run]]:
        """Returns the runs that incomplete settings lack."""
        settings = [setting for encoder in self.encoders for setting in self.settings(encoder)]
        lacking = {
            setting: [run for run in self.runs if run not in self.cells.get(setting, {})] for setting in settings
        }
        return {setting: runs for setting, runs in lacking.items() if runs}


def read_sweep(results: dict[str, Any]) -> Sweep:
    """Returns the sweep that `results` (the content of `results.json`) describes.

    Raises:
        ReportError: no cells, a cell twice, or one that the protocol or the encoders do not have.
    """
    if not results["cells"]:
        raise ReportError("The sweep has no finished cell yet: there is nothing to report.")
    cells: dict[Setting, dict[Run, Cell]] = {}
    protocol, encoders = results["protocol"], {encoder["name"] for encoder in results["encoders"]}
    for cell in results["cells"]:
        setting, run = Setting(cell["encoder"], cell["layer"], cell["pooling"]), (cell["seed"], cell["fold"])
        if run[0] not in protocol["seeds"] or run[1] not in protocol["folds"] or setting.encoder not in encoders:
            raise ReportError(f"The cell {setting}, seed {run[0]}, fold {run[1]} is not of this sweep.")
        if run in cells.setdefault(setting, {}):
            raise ReportError(f"The results have {setting}, seed {run[0]}, fold {run[1]} twice.")
        cells[setting][run] = cell
    return Sweep(results, cells)


def spreads(cells: Mapping[Run, Cell]) -> dict[str, Spread]:
    """Returns `Spread` of each of `METRICS`, as fractions, over the test figures of one cell for each run."""
    seeds = sorted({seed for seed, _ in cells})
    per_seed = [[cell["test"] for (of, _), cell in cells.items() if of == seed] for seed in seeds]
    over_seeds, folds = summarise_seeds(per_seed), [summarise_folds(per_fold) for per_fold in per_seed]
    return {
        name: Spread(
            over_seeds[name]["mean"],
            float(np.mean([seed[name]["std"] for seed in folds])),
            over_seeds[name]["std"] if len(seeds) > 1 else None,
        )
        for name in METRICS
    }


def pooled_matrix(cells: Mapping[Run, Cell]) -> np.ndarray:
    """Returns the confusion matrix `(labels, labels)` of all test utterances of these cells together."""
    return np.sum([cell["test"]["confusion_matrix"] for cell in cells.values()], axis=0)


def pooled_recall(cells: Mapping[Run, Cell]) -> list[float | None]:
    """Returns the recall of each class over all test utterances of these cells, `None` for a class without any."""
    return class_recall(pooled_matrix(cells))
