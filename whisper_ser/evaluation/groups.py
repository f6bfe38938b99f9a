"""Metrics by gender, and their spread over speakers."""

from typing import Any

import numpy as np
import pandas

from whisper_ser.evaluation.metrics import evaluate


def by_gender(predictions: pandas.DataFrame, labels: list[str]) -> dict[str, Any] | None:
    """Returns `{gender: {"utterances", "speakers", "wa", "ua"}}`, or `None` where a gender is unknown.

    Args:
        predictions: of one part, with the columns `gender`, `speaker`, `emotion` and `predicted`.
        labels: in the order of the logits.
    """
    if (predictions["gender"] == "").any():
        return None
    return {
        str(gender): {
            "utterances": len(rows),
            "speakers": rows["speaker"].nunique(),
            **_scores(rows, labels),
        }
        for gender, rows in predictions.groupby("gender")
    }


def speaker_spread(predictions: pandas.DataFrame, labels: list[str]) -> dict[str, Any] | None:
    """Returns `{"speakers", "wa": {"min", "median", "max", "std"}, "ua": ...}`, or `None` without two known speakers.

    All speakers have equal weight; the deviation is that of the population. The arguments are those of `by_gender`.
    """
    if (predictions["speaker"] == "").any() or predictions["speaker"].nunique() < 2:
        return None
    scores = [_scores(rows, labels) for _, rows in predictions.groupby("speaker")]
    return {"speakers": len(scores), **{name: _spread([score[name] for score in scores]) for name in ("wa", "ua")}}


def _scores(rows: pandas.DataFrame, labels: list[str]) -> dict[str, float]:
    figures = evaluate(rows["emotion"].to_numpy(), rows["predicted"].to_numpy(), labels)
    return {name: figures[name] for name in ("wa", "ua")}


def _spread(values: list[float]) -> dict[str, float]:
    return {name: float(getattr(np, name)(values)) for name in ("min", "median", "max", "std")}
