"""A sweep of encoders, layers and poolings, and how its best setting is chosen."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas

from modeling_whisper_ser import WhisperSerConfig
from modeling_whisper_ser.configuration_whisper_ser import POOLING_TYPES
from whisper_ser.evaluation.bootstrap import Intervals
from whisper_ser.evaluation.results import (
    METRICS_FILE,
    FoldResult,
    RunResult,
    deviations_of,
    intervals_of,
    mean_scores,
    read_predictions,
    read_result,
)
from whisper_ser.report.tables import Mean, percent

METRICS = ("wa", "ua", "f1")
"""Those of the paper's tables."""


class Setting(NamedTuple):
    """What is trained once for every seed and fold."""

    encoder: str
    layer: int
    pooling: str


class Cell(NamedTuple):
    """One training: a setting on one fold with one seed."""

    setting: Setting
    fold: FoldResult


@dataclass(frozen=True)
class Sweep:
    """The cross-validation of each setting, and its test predictions with the columns `fold` and `seed`."""

    results: dict[Setting, RunResult]
    predictions: dict[Setting, pandas.DataFrame]

    @cached_property
    def about(self) -> RunResult:
        """The first result, with the training time of all: corpus, protocol and audit are the same for all."""
        first = next(iter(self.results.values()))
        seconds = sum(result.training.seconds for result in self.results.values() if result.training)
        return replace(first, training=first.training and replace(first.training, seconds=seconds))

    @cached_property
    def models(self) -> dict[str, WhisperSerConfig]:
        """The config of a model of each pooling, in the order of the paper."""
        found = {setting.pooling: setting for setting in self.results}
        return {name: self.config(found[name]) for name in POOLING_TYPES if name in found}

    @property
    def encoders(self) -> list[str]:
        return list(dict.fromkeys(setting.encoder for setting in self.results))

    @property
    def has_validation(self) -> bool:
        """Whether every training has validation figures, without which `nested` cannot choose."""
        return all(fold.validation for result in self.results.values() for fold in result.folds)

    def config(self, setting: Setting) -> WhisperSerConfig:
        """Returns the config of the models of a setting."""
        return WhisperSerConfig.from_dict(self.results[setting].model.config)

    def settings(self, encoder: str, pooling: str | None = None) -> list[Setting]:
        """Returns the settings of an encoder, by pooling and then layer."""
        found = [one for one in self.results if one.encoder == encoder and pooling in (None, one.pooling)]
        return sorted(found, key=lambda one: (POOLING_TYPES.index(one.pooling), one.layer))

    def cells(self, setting: Setting) -> list[Cell]:
        """Returns the trainings of a setting."""
        return [Cell(setting, fold) for fold in self.results[setting].folds]

    def intervals(self, cells: Sequence[Cell]) -> Intervals | None:
        """Returns intervals over the speakers of all test utterances of these trainings; `None` for too few."""
        parts = []
        for setting, fold in cells:
            rows = self.predictions[setting]
            parts.append(rows[(rows["fold"] == fold.name) & (rows["seed"] == fold.seed)])
        return intervals_of(pandas.concat(parts), self.about.labels)


def read_sweep(folders: Sequence[Path]) -> Sweep:
    """Returns the sweep of the cross-validations in these folders.

    Raises:
        DamagedFileError, ResultError: a result was changed, or is of an earlier version.
    """
    results, predictions = {}, {}
    for folder in folders:
        result, rows = read_result(folder / METRICS_FILE), read_predictions(folder)
        config = WhisperSerConfig.from_dict(result.model.config)
        setting = Setting(result.model.base.split("/")[-1], config.layer_index, config.pooling_type)
        results[setting], predictions[setting] = result, rows[rows["part"] == "test"]
    return Sweep(results, predictions)


def means(cells: Sequence[Cell]) -> dict[str, Mean]:
    """Returns each of `METRICS` of these trainings' test parts in percent, one training for each seed and fold.

    Means are over all folds and seeds; the deviation over folds is the mean of the seeds'.
    """
    folds = [cell.fold for cell in cells]
    seeds = [[fold for fold in folds if fold.seed == seed] for seed in dict.fromkeys(fold.seed for fold in folds)]
    over_folds, over_seeds = [deviations_of(of_seed).folds for of_seed in seeds], deviations_of(folds).seeds
    mean = mean_scores([fold.test for fold in folds])
    return {
        name: Mean(
            percent(getattr(mean, name)),
            percent(np.mean([getattr(one, name) for one in over_folds])),
            percent(getattr(over_seeds, name)) if over_seeds else None,
        )
        for name in METRICS
    }


NESTED, ON_TEST = "nested", "best on test"
RULES = {
    NESTED: "within each fold (and seed) the setting with the highest UA on that fold's validation speakers; its test "
    "figures are averaged. No test part chooses its own layer.",
    ON_TEST: "the setting with the highest mean UA on the test folds themselves. This flatters: the figures that are "
    "reported have chosen. It is here for comparison with the paper only.",
}
"""Ties go to the lower layer, which costs less."""


@dataclass(frozen=True)
class Choice:
    """The training that a rule takes for every seed and fold. `nested` may take another setting in each."""

    rule: str
    cells: list[Cell]

    @property
    def layers(self) -> Counter[int]:
        """How many runs read each layer."""
        return Counter(cell.setting.layer for cell in self.cells)

    @property
    def poolings(self) -> Counter[str]:
        """How many runs pool in each way."""
        return Counter(cell.setting.pooling for cell in self.cells)

    @property
    def deepest(self) -> Setting:
        """A setting with the highest layer that any run reads."""
        return max((cell.setting for cell in self.cells), key=lambda setting: setting.layer)

    @property
    def matrix(self) -> np.ndarray:
        """The confusion matrix `(labels, labels)` of all test utterances together."""
        return np.sum([cell.fold.test.confusion_matrix for cell in self.cells], axis=0)


Rule = Callable[[Sweep, list[Setting]], Choice | None]


def nested(sweep: Sweep, settings: list[Setting]) -> Choice | None:
    """Returns for each run the training of highest validation UA, `None` without validation figures."""
    if not settings or not sweep.has_validation:
        return None
    candidates = [sweep.cells(setting) for setting in sorted(settings, key=lambda setting: setting.layer)]
    # max takes the first of equals. Every setting has the same folds in the same order.
    chosen = [max(of_run, key=_validation_ua) for of_run in zip(*candidates, strict=True)]
    return Choice(NESTED, chosen)


def _validation_ua(cell: Cell) -> float:
    return cell.fold.validation.ua if cell.fold.validation else 0.0


def best_on_test(sweep: Sweep, settings: list[Setting]) -> Choice | None:
    """Returns the trainings of the setting with the highest mean test UA."""
    if not settings:
        return None
    by_layer = sorted(settings, key=lambda setting: setting.layer)
    return Choice(ON_TEST, sweep.cells(max(by_layer, key=lambda setting: sweep.results[setting].test.ua)))


def choose_setting(sweep: Sweep, settings: list[Setting]) -> Choice | None:
    """Returns `nested` where there are validation figures, else `best_on_test`."""
    return nested(sweep, settings) or best_on_test(sweep, settings)
