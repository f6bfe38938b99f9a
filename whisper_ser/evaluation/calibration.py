"""Calibration: temperature scaling, calibration error, and accuracy by coverage."""

from dataclasses import dataclass

import numpy as np

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


def with_temperature(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Returns `probabilities` `(utterances, num_labels)` after dividing their logits by `temperature`."""
    # Relative to the maximum, which stays 1 when the others underflow.
    powers = (probabilities / probabilities.max(1, keepdims=True)).astype(np.float64) ** (1 / temperature)
    return powers / powers.sum(1, keepdims=True)


COVERAGE_SHARES = [share / 20 for share in range(20, 0, -1)]
"""Shares of answered utterances that are reported."""


@dataclass(frozen=True)
class CoveragePoint:
    """With `abstain_below=threshold` the share `coverage` is answered; the share `wa` of the answers is right."""

    threshold: float
    coverage: float
    wa: float


def coverage(confidence: np.ndarray, right: np.ndarray) -> list[CoveragePoint]:
    """Returns accuracy by coverage: of a model that abstains where its confidence is low.

    Coverage is 100%, 95%, ... 5%, or as little above as ties allow.

    Args:
        confidence: probability of the winning class `(utterances,)`, at least one.
        right: whether that class is the true one `(utterances,)`.
    """
    curve = coverage_curve(confidence, right)
    first = [np.flatnonzero(curve[1] >= share - 1e-9)[0] for share in COVERAGE_SHARES]
    return [CoveragePoint(*map(float, curve[:, point])) for point in dict.fromkeys(first)]


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns threshold, coverage and accuracy of the answered utterances `(3, thresholds)`, thresholds descending.

    Each confidence that occurs is a threshold: utterances of equal confidence are answered together or not at all.
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    confidence, right = np.asarray(confidence)[order], np.asarray(right)[order]
    counts = np.arange(1, len(order) + 1)
    last_of_like = np.append(confidence[1:] != confidence[:-1], True)
    return np.stack([confidence, counts / len(order), np.cumsum(right) / counts])[:, last_of_like]
