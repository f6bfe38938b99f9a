"""Statistics of a corpus: utterances, durations, speakers, labels by fold, and the audit of its folds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset

from whisper_ser.data.audio_index import AudioRecord, refuse_unusable, scan_audio
from whisper_ser.data.leakage import audit, findings
from whisper_ser.data.splits import Fold, Split


def describe(corpus: Dataset, folds: Sequence[Fold], progress: bool = True) -> dict[str, Any]:
    """Returns statistics of a corpus as JSON.

    - `name`, `description`, `license`, `homepage`, `citation`: `None` where unknown.
    - `utterances`, `hours`, `seconds` (mean, median, min, max), `durations` (seconds of each usable utterance).
    - `speakers`: `count`, `genders` (number of speakers by gender, including `unknown`), `utterances_each` (min,
      median, max; `None` without speakers), `utterances_without` (number of utterances without a speaker).
    - `languages`, `groups`, `labels`: number of utterances of each.
    - `folds`: `name` and `parts` of each, and of each part `utterances`, `speakers` and `labels`.
    - `audit`: as `leakage.AuditResult`, with its `findings` as text; `None` without folds.
    - `unusable`: the reason for each file that training would refuse.

    Unusable files are counted as utterances, but not in the durations and the audit.

    Args:
        corpus: with the columns of `build_dataset`.
        folds: of the corpus; may be empty.
        progress: shows progress bars.

    Raises:
        CorpusError: no file can be used; lists all of them.
    """
    paths = corpus["path"][:]
    records, unusable = scan_audio(sorted(set(paths)), progress)
    if not records:
        refuse_unusable(unusable, len(set(paths)))
    durations = [records[path].seconds for path in paths if path in records]
    about = corpus.info
    return {
        "name": about.dataset_name,
        **{key: getattr(about, key) or None for key in ("description", "license", "homepage", "citation")},
        "utterances": len(corpus),
        "hours": round(sum(durations) / 3600, 4),
        "seconds": {name: round(value, 3) for name, value in _spread(durations).items()},
        "durations": [round(duration, 3) for duration in durations],
        "speakers": _speakers(corpus),
        **{f"{column}s": dict(Counter(filter(None, corpus[column][:]))) for column in ("language", "group")},
        "labels": _labels(corpus),
        "folds": [
            {"name": fold.name, "parts": {name: _part(part) for name, part in fold.split._asdict().items()}}
            for fold in folds
        ],
        "audit": _audit(folds, records, unusable),
        "unusable": unusable,
    }


def _audit(folds: Sequence[Fold], records: dict[str, AudioRecord], unusable: dict[str, str]) -> dict[str, Any] | None:
    if not folds:
        return None
    usable = [
        Fold(fold.name, Split(*(_usable(part, unusable) if unusable else part for part in fold.split)))
        for fold in folds
    ]
    result = audit(usable, records)
    return {**asdict(result), "findings": findings(result)}


def _usable(part: Dataset, unusable: dict[str, str]) -> Dataset:
    return part.select([index for index, path in enumerate(part["path"][:]) if path not in unusable])


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "min": min(values),
        "max": max(values),
    }


def _speakers(corpus: Dataset) -> dict[str, Any]:
    named = [(speaker, gender) for speaker, gender in zip(corpus["speaker"][:], corpus["gender"][:], strict=True)]
    utterances = Counter(speaker for speaker, _ in named if speaker)
    genders = Counter(gender or "unknown" for speaker, gender in set(named) if speaker)
    each = _spread(list(utterances.values())) if utterances else None
    return {
        "count": len(utterances),
        "genders": dict(sorted(genders.items())),
        "utterances_each": each and {name: float(each[name]) for name in ("min", "median", "max")},
        "utterances_without": len(named) - utterances.total(),
    }


def _labels(part: Dataset) -> dict[str, int]:
    """Returns the number of utterances of each label, zeros included, in the order of the logits."""
    counts = Counter(part["emotion"][:])
    return {name: counts[index] for index, name in enumerate(part.features["emotion"].names)}


def _part(part: Dataset) -> dict[str, Any]:
    return {"utterances": len(part), "speakers": len(set(part["speaker"][:]) - {""}), "labels": _labels(part)}
