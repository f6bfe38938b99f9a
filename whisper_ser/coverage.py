"""What answering less often brings: utterances answered, and how many of those rightly, as the threshold rises."""

import numpy as np

SHARES = [share / 20 for share in range(20, 0, -1)]
"""Of utterances answered, that are told."""


def coverage(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Returns what a model that answers only where it is sure gets right, from all utterances answered to few.

    `[{"threshold", "coverage", "wa"}, ...]`: with `abstain_below=threshold` the share `coverage` of the utterances is
    answered, and the share `wa` of those rightly. Shares are as near above 100 %, 95 %, ... 5 % as ties allow.

    Args:
        confidence: probability of the winning class `(utterances,)`, at least one.
        right: whether it is the true one `(utterances,)`.
    """
    curve = coverage_curve(confidence, right)
    points = [
        {"threshold": float(threshold), "coverage": float(answered), "wa": float(correct)}
        for share in SHARES
        for threshold, answered, correct in [curve[:, np.flatnonzero(curve[1] >= share - 1e-9)[0]]]
    ]
    return [point for number, point in enumerate(points) if point not in points[:number]]


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns thresholds, shares answered and shares right of those `(3, thresholds)`, thresholds falling.

    Each confidence that occurs is a threshold: utterances of like confidence are answered together or not at all.
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    confidence, right = np.asarray(confidence)[order], np.asarray(right)[order]
    counts = np.arange(1, len(order) + 1)
    last_of_like = np.append(confidence[1:] != confidence[:-1], True)
    return np.stack([confidence, counts / len(order), np.cumsum(right) / counts])[:, last_of_like]
