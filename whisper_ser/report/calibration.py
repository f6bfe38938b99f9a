"""What a run says of its model's certainty: calibration, and what abstaining brings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas

from whisper_ser.calibration import with_temperature
from whisper_ser.coverage import coverage
from whisper_ser.evaluation import class_indices, expected_calibration_error


def calibration_of_run(
    test: pandas.DataFrame, labels: list[str], temperature: float, validation_utterances: int
) -> dict[str, Any]:
    """Returns the temperature, and the expected calibration error of the test without and with it.

    Args:
        test: predictions with the probabilities that the model gives.
        temperature: of the model.
        validation_utterances: that it was fitted on; with 0 it was not fitted and is 1.
    """
    return {
        "temperature": temperature,
        "validation_utterances": validation_utterances,
        "ece_before": _error(test, labels, _uncalibrated(test, labels, temperature)),
        "ece_after": _error(test, labels, _probabilities(test, labels)),
    }


def calibration_of_folds(
    tests: Sequence[pandas.DataFrame], labels: list[str], of_folds: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Returns what the folds' calibrations say together: mean and population deviation, and of all tests pooled.

    Args:
        tests: the test predictions of each fold.
        of_folds: what `calibration_of_run` returned for each.
    """
    uncalibrated = [
        _uncalibrated(test, labels, fold["temperature"]) for test, fold in zip(tests, of_folds, strict=True)
    ]
    pooled = pandas.concat(tests)
    return {
        "fitted": sum(fold["validation_utterances"] > 0 for fold in of_folds),
        **{
            name: {"mean": float(np.mean(values)), "std": float(np.std(values))}
            for name in ("temperature", "ece_before", "ece_after")
            for values in [[fold[name] for fold in of_folds]]
        },
        "pooled": {
            "ece_before": _error(pooled, labels, np.concatenate(uncalibrated)),
            "ece_after": _error(pooled, labels, _probabilities(pooled, labels)),
        },
    }


def coverage_of(test: pandas.DataFrame, labels: list[str]) -> list[dict[str, float]]:
    """Returns `coverage` of a predictions table."""
    return coverage(*confidence_of(test, labels))


def confidence_of(test: pandas.DataFrame, labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the winning probability of each utterance, and whether it won rightly."""
    return _probabilities(test, labels).max(1), (test["emotion"] == test["predicted"]).to_numpy()


def calibration_words(calibration: dict[str, Any]) -> str:
    """Returns the calibration of a run or of a cross-validation, as `metrics.json` has it, in a line."""
    temperature, before, after = (calibration[name] for name in ("temperature", "ece_before", "ece_after"))
    if "pooled" not in calibration:
        if not calibration["validation_utterances"]:
            return f"ECE {after:.3f}; no temperature was fitted, as there are no validation utterances"
        fitted_on = f"fitted on {calibration['validation_utterances']} validation utterances"
        return f"ECE {after:.3f}, {before:.3f} before the temperature of {temperature:.2f}, {fitted_on}"
    pooled = calibration["pooled"]
    now = f"ECE {after['mean']:.3f} over folds, {pooled['ece_after']:.3f} pooled"
    if not calibration["fitted"]:
        return f"{now}; no temperatures were fitted, as there are no validation utterances"
    return (
        f"{now}, {before['mean']:.3f} and {pooled['ece_before']:.3f} before the temperatures of "
        f"{temperature['mean']:.2f} +- {temperature['std']:.2f}, fitted on each fold's own validation speakers"
    )


def _probabilities(rows: pandas.DataFrame, labels: list[str]) -> np.ndarray:
    return rows[[f"probability_{label}" for label in labels]].to_numpy()


def _uncalibrated(rows: pandas.DataFrame, labels: list[str], temperature: float) -> np.ndarray:
    return with_temperature(_probabilities(rows, labels), 1 / temperature)


def _error(rows: pandas.DataFrame, labels: list[str], probabilities: np.ndarray) -> float:
    return expected_calibration_error(class_indices(rows["emotion"].to_numpy(), labels, "references"), probabilities)
