"""Metrics of predictions, one formula each, computed from confusion matrices.

`make metric` copies the functions that `metrics/ser_metrics` needs, which works without this package.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from whisper_ser.errors import WhisperSerError

METRICS = ("wa", "ua", "f1", "macro_f1")
"""Returned by `matrix_scores`, in the order of reports."""

ECE_BINS = 15


class EvaluationError(WhisperSerError, ValueError):
    """Predictions, probabilities or metrics that cannot be evaluated."""


def scores(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Returns WA, UA, weighted and macro F1 as fractions: `matrix_scores` of class indices `(utterances,)`.

    Raises:
        EvaluationError: no utterances, different lengths, or values that are not labels.
    """
    labels = labels_found(references, predictions)
    matrix = confusion_matrix(*class_pairs(references, predictions, labels), len(labels))
    return {name: float(score) for name, score in matrix_scores(matrix).items()}


def evaluate(
    references: Any, predictions: Any, labels: Sequence[str], probabilities: Any | None = None
) -> dict[str, Any]:
    """Returns WA, UA, weighted and macro F1, the recall of each class and the confusion matrix.

    The recall of a class that the references lack is `None`.

    The confusion matrix counts utterances, references by row, predictions by column, in the order of `labels`.

    Args:
        references, predictions: class indices or names of `labels`, `(utterances,)`.
        probabilities: `(utterances, num_labels)`; with them the result has `ece`, the expected calibration error.

    Raises:
        EvaluationError: no utterances, different lengths, unknown or missing labels, or invalid probabilities.
    """
    references, predictions = class_pairs(references, predictions, labels)
    matrix = confusion_matrix(references, predictions, len(labels))
    result: dict[str, Any] = {
        "utterances": len(references),
        **{name: float(score) for name, score in matrix_scores(matrix).items()},
        "recall": dict(zip(labels, class_recall(matrix), strict=True)),
        "confusion_matrix": matrix.tolist(),
    }
    if probabilities is not None:
        probabilities = class_probabilities(probabilities, len(references), len(labels))
        result["ece"] = expected_calibration_error(references, probabilities)
    return result


def matrix_scores(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns WA, UA, weighted and macro F1 as fractions, each `(...)`, of confusion matrices.

    - `wa`, weighted accuracy: the share of utterances that are right (accuracy).
    - `ua`, unweighted accuracy: the mean recall of the classes in the references, as scikit-learn's
      `balanced_accuracy_score`. A class that occurs in predictions only has no recall and is left out.
    - `f1`: the F1 of each class weighted by its utterances in the references, as the paper reports it.
    - `macro_f1`: the mean F1 of the classes found in references or predictions, as scikit-learn's default. A class
      that is only predicted counts with an F1 of 0; one found in neither does not count.

    Args:
        matrices: counts `(..., num_labels, num_labels)`, references by row, at least one utterance in each.
    """
    matrices = np.asarray(matrices, dtype=np.float64)
    correct = np.diagonal(matrices, axis1=-2, axis2=-1)
    support, predicted = matrices.sum(-1), matrices.sum(-2)
    referenced, found = support > 0, support + predicted > 0
    recall = np.divide(correct, support, out=np.zeros_like(support), where=referenced)
    f1 = np.divide(2 * correct, support + predicted, out=np.zeros_like(support), where=found)
    utterances = support.sum(-1)
    return {
        "wa": correct.sum(-1) / utterances,
        "ua": recall.sum(-1) / referenced.sum(-1),
        "f1": (f1 * support).sum(-1) / utterances,
        "macro_f1": f1.sum(-1) / found.sum(-1),
    }


def class_recall(matrix: np.ndarray) -> list[float | None]:
    """Returns the recall of each class, `None` where the references lack it."""
    support = matrix.sum(1)
    return [float(matrix[i, i] / support[i]) if support[i] else None for i in range(len(matrix))]


def confusion_matrix(references: np.ndarray, predictions: np.ndarray, num_labels: int) -> np.ndarray:
    """Returns counts `(num_labels, num_labels)`, references by row, of class indices `(utterances,)`."""
    cells = np.bincount(references * num_labels + predictions, minlength=num_labels**2)
    return cells.reshape(num_labels, num_labels)


def expected_calibration_error(references: np.ndarray, probabilities: Any, bins: int = ECE_BINS) -> float:
    """Returns the expected calibration error of the winning class, in bins of equal mass.

    Utterances are ordered by the probability of their winning class and cut into `bins` of equal size (sizes differ
    by at most one; with fewer utterances than bins, each has its own). The error is the mean over utterances of
    |share right - mean probability| of their bin. Equal probabilities share the lowest bin that one of them falls
    into, so the result does not depend on the order of the utterances. Source: Nguyen and O'Connor 2015
    (arXiv 1508.05154), the adaptive bins of expected calibration error.

    Args:
        references: class indices `(utterances,)`.
        probabilities: `(utterances, num_labels)`, rows that sum to 1.

    Raises:
        EvaluationError: no utterances, labels without a column, or what `class_probabilities` raises.
    """
    probabilities = class_probabilities(probabilities, len(references))
    references = class_indices(references, [str(index) for index in range(probabilities.shape[1])], "references")
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == references
    rank = np.searchsorted(np.sort(confidence), confidence)
    # |sum of (right - confidence)| in a bin is its size times the difference of its means.
    gap = np.bincount(rank * bins // len(rank), weights=right - confidence)
    return float(np.abs(gap).sum() / len(rank))


def class_pairs(references: Any, predictions: Any, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class indices `(utterances,)` of references and predictions.

    Raises:
        EvaluationError: no utterances, different lengths, or as `class_indices`.
    """
    if len(references) != len(predictions):
        raise EvaluationError(
            f"{len(references)} references but {len(predictions)} predictions: give one of each for every utterance."
        )
    if not len(references):
        raise EvaluationError("No utterances: give at least one reference and its prediction.")
    return class_indices(references, labels, "references"), class_indices(predictions, labels, "predictions")


def class_indices(values: Any, labels: Sequence[str], what: str) -> np.ndarray:
    """Returns the class indices `(utterances,)` of `values`, which are indices into `labels` or names of `labels`.

    Raises:
        EvaluationError: missing or unknown labels, or values that are neither integers nor names.
    """
    items = values.tolist() if hasattr(values, "tolist") else list(values)
    missing = [index for index, item in enumerate(items) if item is None or item != item]
    if missing:
        raise EvaluationError(f"{what} lack a label (None or NaN) at {len(missing)} places, first at {missing[0]}.")
    if all(isinstance(item, str) for item in items):
        index_of: dict[Any, int] = {label: index for index, label in enumerate(labels)}
    elif all(isinstance(item, (int, np.integer)) and not isinstance(item, bool) for item in items):
        index_of = {index: index for index in range(len(labels))}
    else:
        raise EvaluationError(f"{what} must be all class indices (integers) or all label names.")
    unknown = sorted(set(items) - set(index_of))
    if unknown:
        raise EvaluationError(f"{what} hold unknown labels {unknown}. The labels are {dict(enumerate(labels))}.")
    return np.array([index_of[item] for item in items], dtype=np.int64)


def class_probabilities(values: Any, utterances: int, num_labels: int | None = None) -> np.ndarray:
    """Returns `values` as float64 `(utterances, num_labels)`.

    Raises:
        EvaluationError: no utterances, a wrong shape, NaN, values outside 0 to 1, or rows that do not sum to 1 within
            0.001, which rounded and half-precision probabilities do.
    """
    try:
        probabilities = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"probabilities must be rows of numbers, one for each label: {error}.") from error
    well_shaped = probabilities.ndim == 2 and probabilities.size and len(probabilities) == utterances
    if not well_shaped or (num_labels and probabilities.shape[1] != num_labels):
        raise EvaluationError(
            f"probabilities must have the shape ({utterances} utterances, {num_labels or 'all'} labels), "
            f"not {probabilities.shape}."
        )
    if np.isnan(probabilities).any():
        raise EvaluationError("probabilities hold NaN.")
    if probabilities.min() < 0 or probabilities.max() > 1 or np.abs(probabilities.sum(1) - 1).max() > 1e-3:
        raise EvaluationError(
            "probabilities must lie between 0 and 1 and sum to 1 for each utterance: apply softmax to logits."
        )
    return probabilities


def labels_found(references: Any, predictions: Any) -> list[str]:
    """Returns the label names that occur, sorted; for class indices "0" up to the highest one."""
    items = {
        item
        for values in (references, predictions)
        for item in (values.tolist() if hasattr(values, "tolist") else values)
    }
    if names := [item for item in items if isinstance(item, str)]:
        return sorted(names)
    highest = max((item for item in items if isinstance(item, (int, np.integer))), default=-1)
    return [str(index) for index in range(highest + 1)]


def summarise_folds(per_fold: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns mean and standard deviation over folds, and the metrics of all folds' utterances pooled.

    `{"folds", "utterances", "wa": {"mean", "std"}, ... for each of METRICS (and "ece" where every fold has it),
    "pooled": {"wa", "ua", "f1", "macro_f1", "recall", "confusion_matrix"}}`. All folds have equal weight, and the
    deviation is that of the population (divided by the number of folds), as in the paper (Section 4.2). Pooled metrics
    are computed from the sum of the confusion matrices, where all utterances have equal weight.

    Args:
        per_fold: what `evaluate` returned for each fold, all with the same labels.

    Raises:
        EvaluationError: no folds, metrics missing from a fold, or folds with different labels.
    """
    if not per_fold:
        raise EvaluationError("No folds to summarise.")
    for number, fold in enumerate(per_fold, 1):
        if absent := [name for name in (*METRICS, "recall", "confusion_matrix") if name not in fold]:
            raise EvaluationError(f"Fold {number} lacks {', '.join(absent)}: give what `evaluate` returns.")
        if list(fold["recall"]) != list(per_fold[0]["recall"]):
            raise EvaluationError(
                f"Fold {number} has labels {list(fold['recall'])}, fold 1 has {list(per_fold[0]['recall'])}."
            )
    pooled = np.sum([fold["confusion_matrix"] for fold in per_fold], axis=0)
    names = [*METRICS, "ece"] if all("ece" in fold for fold in per_fold) else METRICS
    return {
        "folds": len(per_fold),
        "utterances": int(pooled.sum()),
        **{name: _mean_and_deviation([fold[name] for fold in per_fold]) for name in names},
        "pooled": {
            **{name: float(score) for name, score in matrix_scores(pooled).items()},
            "recall": dict(zip(per_fold[0]["recall"], class_recall(pooled), strict=True)),
            "confusion_matrix": pooled.tolist(),
        },
    }


def summarise_seeds(per_seed: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Returns mean and population standard deviation over seeds, of the means over folds and of the pooled metrics.

    `{"seeds", "wa": {"mean", "std"}, ..., "pooled": {"wa": {"mean", "std"}, ...}}`.

    The deviation is that between seeds; `summarise_folds` returns the one between folds.

    Args:
        per_seed: for each seed, what `evaluate` returned for each fold.

    Raises:
        EvaluationError: no seeds, or as `summarise_folds`.
    """
    if not per_seed:
        raise EvaluationError("No seeds to summarise.")
    seeds = [summarise_folds(per_fold) for per_fold in per_seed]
    names = [*METRICS, "ece"] if all("ece" in seed for seed in seeds) else METRICS
    return {
        "seeds": len(seeds),
        **{name: _mean_and_deviation([seed[name]["mean"] for seed in seeds]) for name in names},
        "pooled": {name: _mean_and_deviation([seed["pooled"][name] for seed in seeds]) for name in METRICS},
    }


def _mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def confusion_table(matrix: list[list[int]], labels: list[str]) -> str:
    """Returns the confusion matrix as text for a terminal."""
    width = max(len(label) for label in [*labels, "true \\ said"]) + 2
    head = "true \\ said".ljust(width) + "".join(label.rjust(width) for label in labels)
    rows = [
        label.ljust(width) + "".join(str(n).rjust(width) for n in row)
        for label, row in zip(labels, matrix, strict=True)
    ]
    return "\n".join([head, *rows])
