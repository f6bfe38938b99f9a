"""Metrics of speech emotion recognition as a metric of Hugging Face `evaluate`.

Written by `make metric` from whisper_ser/evaluation/metrics.py: change it there.

"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

METRICS = ("wa", "ua", "f1", "macro_f1")
"""Returned by `matrix_scores`, in the order of reports."""

ECE_BINS = 15


class EvaluationError(ValueError):
    """Predictions, probabilities or metrics that cannot be evaluated."""


_DESCRIPTION = """\
Metrics of speech emotion recognition, as fractions: WA (weighted accuracy: the share of utterances that are right), UA
(unweighted accuracy: mean recall over the classes), weighted and macro F1, the recall of each class, the confusion
matrix and, from probabilities, the expected calibration error.
"""

_INPUTS = """
Args:
    predictions (list of int or str): predicted classes, as indices or label names.
    references (list of int or str): true classes, in the same form.
    labels (list of str, optional): names of all classes in the order of the indices and of the columns of
        `probabilities`. Default: the names that occur, sorted; for indices "0", "1", ... up to the highest that
        occurs, or as many as `probabilities` has columns.
    probabilities (array (utterances, labels), optional): rows that sum to 1. With label names, `labels` must say
        which column is which.

Returns:
    utterances (int): how many.
    wa (float): accuracy.
    ua (float): mean recall over the classes that the references have, as scikit-learn's balanced_accuracy_score.
    f1 (float): F1 weighted by each class's utterances in the references.
    macro_f1 (float): mean F1 over the classes found in references or predictions, as scikit-learn's f1_score.
    recall (dict): of each label; None for one that the references lack.
    confusion_matrix (list of lists of int): utterances, references by row, predictions by column.
    ece (float): where probabilities are given: expected calibration error of the winning class in 15 bins of equal
        mass.

Raises:
    ValueError: no utterances, lengths that differ, unknown or missing labels, probabilities that are none.

Examples:
    >>> metric = evaluate.load("metrics/ser_metrics")
    >>> result = metric.compute(references=["angry", "sad", "sad"], predictions=["angry", "sad", "angry"])
    >>> round(result["wa"], 3), result["ua"]
    (0.667, 0.75)
"""

_CITATION = """\
@misc{whisper-ser,
  title = {whisper-ser: speech emotion recognition on a frozen Whisper encoder},
  note = {Metrics as in arXiv 2602.06000, Section 4},
}
"""


class SerMetrics(evaluate.Metric):
    """WA, UA, weighted and macro F1, recall by class, confusion matrix and calibration error; see `_INPUTS`."""

    def _info(self) -> evaluate.MetricInfo:
        # Names first: a whole number is refused as a name, but the name "3" would pass as a number.
        forms = [datasets.Value("string"), datasets.Value("int64")]
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[datasets.Features({"predictions": form, "references": form}) for form in forms],
            reference_urls=["https://arxiv.org/abs/2602.06000", "https://arxiv.org/abs/1508.05154"],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Adds utterances to those that `compute` will evaluate."""
        if predictions is not None and references is not None:
            predictions, references = as_list(predictions), as_list(references)
            # What is no label at all is refused here: the storage would turn 1.5 into 1, say.
            class_pairs(references, predictions, labels_found(references, predictions))
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one utterance to those that `compute` will evaluate."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def _compute(
        self,
        predictions: Any,
        references: Any,
        labels: Sequence[str] | None = None,
        probabilities: Any | None = None,
    ) -> dict[str, Any]:
        if labels is None and probabilities is not None:
            if isinstance(references[0], str):
                raise EvaluationError("labels must say which column of probabilities is which label.")
            labels = [str(index) for index in range(class_probabilities(probabilities, len(references)).shape[1])]
        if labels is None:
            labels = labels_found(references, predictions)
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
    items = as_list(values)
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
    items = {*as_list(references), *as_list(predictions)}
    if names := [item for item in items if isinstance(item, str)]:
        return sorted(names)
    highest = max((item for item in items if isinstance(item, (int, np.integer))), default=-1)
    return [str(index) for index in range(highest + 1)]


def as_list(values: Any) -> list[Any]:
    """Returns an array, tensor, series or sequence as a list of plain values."""
    return values.tolist() if hasattr(values, "tolist") else list(values)
