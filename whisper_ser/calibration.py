"""Probabilities as sure as the model is right: a temperature for its logits."""

import numpy as np

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures between which one is sought."""
STEPS = 60
"""Halvings of the interval: far below what float32 logits tell apart."""


def fit_temperature(logits: np.ndarray, references: np.ndarray) -> float | None:
    """Returns the temperature that makes `references` most likely when the logits are divided by it.

    The mean negative log-likelihood is convex in the inverse temperature, so its slope is brought to 0 by bisection.
    No optimum exists, and `None` is returned, where every utterance is right: the surer, the likelier. Source: Guo et
    al. 2017 (arXiv 1706.04599), section 4.2.

    Args:
        logits: `(utterances, num_labels)`, of utterances that did not train the model; there may be none.
        references: class indices `(utterances,)`.
    """
    logits, references = np.asarray(logits, dtype=np.float64), np.asarray(references, dtype=np.int64)
    # Against the largest, so that no exponential overflows; probabilities do not change.
    logits = logits - logits.max(1, keepdims=True) if len(logits) else logits
    of_truth = logits[np.arange(len(references)), references]
    if not len(references) or not of_truth.any():
        return None
    low, high = np.log(1 / HIGHEST), np.log(1 / LOWEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        weights = np.exp(np.exp(middle) * logits)
        # Of the negative log-likelihood, by the inverse temperature.
        slope = np.mean((weights * logits).sum(1) / weights.sum(1) - of_truth)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns what `probabilities` `(utterances, num_labels)` are when their logits are divided by `temperature`."""
    # Against the largest, which then stays 1 whatever becomes of the others.
    powers = (probabilities / probabilities.max(1, keepdims=True)).astype(np.float64) ** (1 / temperature)
    return powers / powers.sum(1, keepdims=True)
