"""Predictions to the field's figures."""

from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score


def scores(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Returns WA, UA and F1 as fractions, as the paper defines them.

    WA is the accuracy, UA the mean recall over the classes that the references have, F1 weighted by their support.

    Args:
        references, predictions: class indices `(utterances,)`.
    """
    present = np.unique(references)
    return {
        "wa": float(accuracy_score(references, predictions)),
        "ua": float(recall_score(references, predictions, labels=present, average="macro")),
        "f1": float(f1_score(references, predictions, average="weighted", zero_division=0)),
    }


def evaluate(references: np.ndarray, predictions: np.ndarray, labels: list[str]) -> dict[str, Any]:
    """Returns `scores` with the recall of each class (`None` for one the references lack) and the confusion matrix.

    The confusion matrix counts utterances, references by row, predictions by column, in the order of `labels`.
    """
    matrix = confusion_matrix(references, predictions, labels=range(len(labels)))
    support = matrix.sum(1)
    recall = [float(matrix[i, i] / support[i]) if support[i] else None for i in range(len(labels))]
    return {
        "utterances": len(references),
        **scores(references, predictions),
        "recall": dict(zip(labels, recall, strict=True)),
        "confusion_matrix": matrix.tolist(),
    }


def confusion_table(matrix: list[list[int]], labels: list[str]) -> str:
    """Returns the confusion matrix as text for a terminal."""
    width = max(len(label) for label in [*labels, "true \\ said"]) + 2
    head = "true \\ said".ljust(width) + "".join(label.rjust(width) for label in labels)
    rows = [
        label.ljust(width) + "".join(str(n).rjust(width) for n in row)
        for label, row in zip(labels, matrix, strict=True)
    ]
    return "\n".join([head, *rows])
