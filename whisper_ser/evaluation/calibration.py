"""Calibration: temperature scaling, calibration error, and accuracy by coverage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas

from whisper_ser.evaluation.metrics import class_indices, expected_calibration_error

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
BISECTIONS = 60
"""Enough to reach the precision of float32 logits."""


def fit_temperature(logits: np.ndarray, references: np.ndarray) -> float:
    """Returns the temperature that maximises the likelihood of `references` when the logits are divided by it.

    Guo et al. 2017 (arXiv 1706.04599, section 4.2), with label smoothing: the share 1 / (utterances + 1) of each
    reference is spread evenly over all labels. Without it, a model that gets all of a few utterances right would be
    given the lowest temperature (Platt 1999 solves this in the same way). With hundreds of utterances the effect
    vanishes.

    The mean negative log-likelihood is convex in the inverse temperature; the root of its slope is found by bisection.

    Args:
        logits: `(utterances, num_labels)`, of at least one utterance, none of which trained the model.
        references: class indices `(utterances,)`.
    """
    logits, references = np.asarray(logits, dtype=np.float64), np.asarray(references, dtype=np.int64)
    # Subtracting the maximum prevents overflow and does not change probabilities.
    logits = logits - logits.max(1, keepdims=True)
    shared = 1 / (len(references) + 1)
    of_truth = (1 - shared) * logits[np.arange(len(references)), references] + shared * logits.mean(1)
    low, high = np.log(1 / MAX_TEMPERATURE), np.log(1 / MIN_TEMPERATURE)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        weights = np.exp(np.exp(middle) * logits)
        # Derivative of the negative log-likelihood by the inverse temperature.
        slope = np.mean((weights * logits).sum(1) / weights.sum(1) - of_truth)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns `probabilities` `(utterances, num_labels)` after dividing their logits by `temperature`."""
    # Relative to the maximum, which stays 1 when the others underflow.
    powers = (probabilities / probabilities.max(1, keepdims=True)).astype(np.float64) ** (1 / temperature)
    return powers / powers.sum(1, keepdims=True)


COVERAGE_SHARES = [share / 20 for share in range(20, 0, -1)]
"""Shares of answered utterances that are reported."""


def coverage(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Returns accuracy by coverage: of a model that abstains where its confidence is low.

    `[{"threshold", "coverage", "wa"}, ...]`: with `abstain_below=threshold` the share `coverage` of the utterances is
    answered, and the share `wa` of these is right. Coverage is 100%, 95%, ... 5%, or as little above as ties allow.

    Args:
        confidence: probability of the winning class `(utterances,)`, at least one.
        right: whether that class is the true one `(utterances,)`.
    """
    curve = coverage_curve(confidence, right)
    points = [
        {"threshold": float(threshold), "coverage": float(answered), "wa": float(correct)}
        for share in COVERAGE_SHARES
        for threshold, answered, correct in [curve[:, np.flatnonzero(curve[1] >= share - 1e-9)[0]]]
    ]
    return [point for number, point in enumerate(points) if point not in points[:number]]


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns threshold, coverage and accuracy of the answered utterances `(3, thresholds)`, thresholds descending.

    Each confidence that occurs is a threshold: utterances of equal confidence are answered together or not at all.
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    confidence, right = np.asarray(confidence)[order], np.asarray(right)[order]
    counts = np.arange(1, len(order) + 1)
    last_of_like = np.append(confidence[1:] != confidence[:-1], True)
    return np.stack([confidence, counts / len(order), np.cumsum(right) / counts])[:, last_of_like]


def calibration_of_run(
    test: pandas.DataFrame, labels: list[str], temperature: float, validation_utterances: int
) -> dict[str, Any]:
    """Returns the temperature and the expected calibration error on the test part without and with it.

    Args:
        test: predictions with the probabilities of the model.
        temperature: of the model.
        validation_utterances: number of utterances that it was fitted on; 0 if it was not fitted and is 1.
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
    """Returns mean and population deviation of the folds' calibrations, and the errors of all tests pooled.

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
    """Returns the probability of the predicted class of each utterance, and whether the prediction is right."""
    return _probabilities(test, labels).max(1), (test["emotion"] == test["predicted"]).to_numpy()


def _probabilities(rows: pandas.DataFrame, labels: list[str]) -> np.ndarray:
    return rows[[f"probability_{label}" for label in labels]].to_numpy()


def _uncalibrated(rows: pandas.DataFrame, labels: list[str], temperature: float) -> np.ndarray:
    return with_temperature(_probabilities(rows, labels), 1 / temperature)


def _error(rows: pandas.DataFrame, labels: list[str], probabilities: np.ndarray) -> float:
    return expected_calibration_error(class_indices(rows["emotion"].to_numpy(), labels, "references"), probabilities)
