"""Results as runs leave them, small enough to compute by hand; borrowed by the tests of other rooms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas

from whisper_ser.data.leakage import AuditResult
from whisper_ser.evaluation.results import (
    Corpus,
    FoldResult,
    Model,
    Protocol,
    RunResult,
    Scores,
    TrainingFacts,
    deviations_of,
    mean_scores,
    score,
    statistics_of,
)

LABELS = ["angry", "sad"]


def predictions(
    references: Sequence[int], predicted: Sequence[int], labels: list[str] = LABELS, sure: float = 0.8, **columns: Any
) -> pandas.DataFrame:
    """Returns test predictions, of one speaker unless `columns` say otherwise; each has the probability `sure`."""
    rows = np.full((len(predicted), len(labels)), (1 - sure) / (len(labels) - 1))
    rows[np.arange(len(predicted)), predicted] = sure
    table = pandas.DataFrame(
        {
            "part": "test",
            "path": [f"{number:03d}.wav" for number in range(len(predicted))],
            "speaker": "s",
            "gender": "",
            "emotion": [labels[index] for index in references],
            "predicted": [labels[index] for index in predicted],
        }
    )
    return table.assign(**{f"probability_{label}": rows[:, n] for n, label in enumerate(labels)}).assign(**columns)


def scores(references: Sequence[int], predicted: Sequence[int], sure: float = 0.8, **options: Any) -> Scores:
    return score(predictions(references, predicted, sure=sure), LABELS, **options)


def fold(test: Scores, name: str = "A", seed: int = 0, **changes: Any) -> FoldResult:
    fields: dict[str, Any] = {
        "validation": None,
        "temperature": 1.0,
        "train_speakers": ["t"],
        "validation_speakers": [],
        "test_speakers": ["s"],
        "history": [],
    }
    return FoldResult(name=name, seed=seed, test=test, **(fields | changes))


def run_result(folds: list[FoldResult], test: pandas.DataFrame, **changes: Any) -> RunResult:
    """Returns the result of a run, or of a cross-validation where there are several folds."""
    several = len(folds) > 1
    fields: dict[str, Any] = {
        "labels": LABELS,
        "test": mean_scores([one.test for one in folds]),
        "deviations": deviations_of(folds) if several else None,
        "pooled": score(test, LABELS) if several else None,
        **statistics_of(test, LABELS),
        "corpus": Corpus("own", "", ["de"], "", "", "", utterances=10, speakers=2, hours=0.01),
        "protocol": Protocol(
            name="loso" if several else "split",
            selection="last",
            seeds=list(dict.fromkeys(one.seed for one in folds)),
            folds=list(dict.fromkeys(one.name for one in folds)),
        ),
        "model": Model("whisper-base", True, None, {}),
        "training": TrainingFacts(2, 16, 0.001, 9.5, 1, "a CPU"),
        "folds": folds,
        "audit": AuditResult(["A", "B"], 10),
        "versions": {"torch": "2.13.0"},
    }
    return RunResult(**(fields | changes))
