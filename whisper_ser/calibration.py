"""Probabilities as sure as the model is right: a temperature for its logits."""

import numpy as np

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures between which one is sought."""
STEPS = 60
"""Halvings of the interval: far below what float32 logits tell apart."""


def fit_temperature(logits: np.ndarray, references: np.ndarray) -> float:
    """Returns the temperature that makes `references` most likely when the logits are divided by it.

    Guo et al. 2017 (arXiv 1706.04599, section 4.2), with one addition: 1 / (utterances + 1) of each reference counts
    for all labels alike, as though one more utterance had been heard and not understood. Without it a model that gets
    all of a few utterances right, or nearly so, would be taken for infallible: the surer, the likelier. (Platt 1999
    met this in the same way.) Hundreds of utterances leave nothing of it.

    The mean negative log-likelihood is convex in the inverse temperature, so its slope is brought to 0 by bisection.

    Args:
        logits: `(utterances, num_labels)`, of at least one utterance that did not train the model.
        references: class indices `(utterances,)`.
    """
    logits, references = np.asarray(logits, dtype=np.float64), np.asarray(references, dtype=np.int64)
    # Against the largest, so that no exponential overflows; probabilities do not change.
    logits = logits - logits.max(1, keepdims=True)
    shared = 1 / (len(references) + 1)
    of_truth = (1 - shared) * logits[np.arange(len(references)), references] + shared * logits.mean(1)
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
