"""Comparison of two runs by a paired bootstrap over the speakers of the same test utterances."""

import math
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import pandas

from whisper_ser.errors import WhisperSerError
from whisper_ser.evaluation.bootstrap import CONFIDENCE, RESAMPLES, interval, resampled_matrices, speaker_matrices
from whisper_ser.evaluation.metrics import METRICS, class_pairs, matrix_scores

COLUMNS = ("part", "path", "speaker", "emotion", "predicted")
NAMES = {"wa": "WA", "ua": "UA", "f1": "F1 (weighted)", "macro_f1": "F1 (macro)"}


class ComparisonError(WhisperSerError, ValueError):
    """Two predictions tables that cannot be compared."""


@dataclass(frozen=True)
class Difference:
    """How a metric of the candidate differs from that of the baseline.

    Attributes:
        baseline, candidate: the values over all test utterances pooled.
        difference: candidate minus baseline, with `low` and `high`, its percentile bootstrap interval. Each resample
            draws speakers once for both runs, so speakers that are hard for both cancel out.
        probability: the share of resamples in which the difference has the sign of the observed one, the bootstrap's
            probability that the difference is real. Noise alone gives 0.5 and more, so only values near 1 support a
            claim. 0 where the observed difference is 0.
        p: two-sided, twice the share of resamples at 0 or on its other side. It is never below 2^(1 - speakers), the
            probability that all speakers agree on a direction by chance (sign test), which a bootstrap of few
            speakers underestimates. At a confidence of 95%, fewer than six speakers support no claim.
        better: "candidate" or "baseline" where the interval excludes 0 and `p` is at most 1 - `confidence`, else
            `None`. There is no correction for multiple comparisons.
    """

    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    probability: float
    p: float
    better: str | None


@dataclass(frozen=True)
class Comparison:
    """The difference of two runs in each of `metrics.METRICS`.

    Attributes:
        seeds: number of trainings that each utterance has rows of.
        same_folds: whether both runs held out the same utterances together; `None` where a table has no column `fold`.
    """

    utterances: int
    seeds: int
    same_folds: bool | None
    speakers: int
    resamples: int
    confidence: float
    seed: int
    metrics: dict[str, Difference]


def compare(
    baseline: pandas.DataFrame,
    candidate: pandas.DataFrame,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Returns how `candidate` differs from `baseline` on their test utterances, and how certain that is.

    Args:
        baseline, candidate: tables as in a run's `predictions.parquet`. Paths are compared below the deepest folder
            that all paths of a table share, so the corpus may have been in different places. A column `seed`
            distinguishes several trainings: both runs must have the same seeds, and all rows of a speaker are drawn
            together. The interval covers the choice of speakers, not that of seeds.
        resamples: draws of speakers.
        confidence: of the intervals, between 0 and 1.
        seed: of the draws.

    Raises:
        ComparisonError: columns are missing, the tables differ in utterances, seeds, speakers or labels, or
            `resamples` or `confidence` is out of range.
        EvaluationError: labels or speakers are missing, or there are fewer than two speakers.
    """
    _check_numbers(resamples, confidence)
    first, second = _test_part(baseline, "baseline"), _test_part(candidate, "candidate")
    seeds = _check_seeds(first, second)
    _check_same(first, second)
    labels = sorted({*first["emotion"], *first["predicted"], *second["predicted"]}, key=str)
    # The same seed and the same speakers give the same draws for both runs.
    runs = [
        speaker_matrices(*class_pairs(run["emotion"], run["predicted"], labels), run["speaker"], len(labels))
        for run in (first, second)
    ]
    values = [matrix_scores(matrices.sum(0)) for matrices in runs]
    sampled = [matrix_scores(resampled_matrices(matrices, resamples, seed)) for matrices in runs]
    return Comparison(
        utterances=len(first) // seeds,
        seeds=seeds,
        same_folds=_same_folds(first, second),
        speakers=len(runs[0]),
        resamples=resamples,
        confidence=confidence,
        seed=seed,
        metrics={
            name: _difference(
                [of[name] for of in values], sampled[1][name] - sampled[0][name], confidence, len(runs[0])
            )
            for name in METRICS
        },
    )


def _difference(values: list[np.ndarray], sampled: np.ndarray, confidence: float, speakers: int) -> Difference:
    """Returns the difference of the two `values`, with its resamples `(resamples,)`."""
    # Rounding errors of sums in another order must not count as a difference.
    observed, sampled = np.round(values[1] - values[0], 12), np.round(sampled, 12)
    low, high = interval(sampled, confidence)
    opposite = min((sampled <= 0).sum(), (sampled >= 0).sum())
    p = float(min(1.0, max(2 * (opposite + 1) / (len(sampled) + 1), 2.0 ** (1 - speakers))))
    sure = p <= 1 - confidence + 1e-12
    return Difference(
        baseline=float(values[0]),
        candidate=float(values[1]),
        difference=float(observed),
        low=low,
        high=high,
        probability=float((np.sign(sampled) == np.sign(observed)).mean()) if observed else 0.0,
        p=p,
        better="candidate" if sure and low > 0 else "baseline" if sure and high < 0 else None,
    )


def _test_part(table: pandas.DataFrame, run: str) -> pandas.DataFrame:
    """Returns the test rows of a run's table, sorted by their index: the path below the folder that all share.

    In a table of several seeds the index is the path with the seed.
    """
    if absent := [name for name in COLUMNS if name not in table]:
        raise ComparisonError(f"The {run} lacks the columns {', '.join(absent)}: give a run's predictions.parquet.")
    test = table[table["part"] == "test"]
    if test.empty:
        raise ComparisonError(f"The {run} has no rows with part 'test'.")
    paths = [PurePath(path).parts for path in test["path"]]
    shared = 0
    while all(len(parts) > shared + 1 and parts[shared] == paths[0][shared] for parts in paths):
        shared += 1
    names = ["/".join(parts[shared:]) for parts in paths]
    if len(_seeds(test)) > 1:
        names = [f"{name} (seed {seed})" for name, seed in zip(names, test["seed"], strict=True)]
    test = test.set_index(pandas.Index(names)).sort_index()
    if twice := sorted(set(test.index[test.index.duplicated()])):
        raise ComparisonError(
            f"The {run} holds {len(twice)} utterances more than once ({_few(twice)}): several seeds need a column "
            "seed, and each utterance may test in one fold only."
        )
    return test


def _seeds(table: pandas.DataFrame) -> set[str]:
    return set(table["seed"].astype(str)) if "seed" in table else set()


def _check_numbers(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise ComparisonError(f"resamples is {resamples}; expected at least 1, such as {RESAMPLES}.")
    if not 0 < confidence < 1:
        raise ComparisonError(f"confidence is {confidence:g}; expected a share between 0 and 1, such as {CONFIDENCE}.")


def _check_seeds(first: pandas.DataFrame, second: pandas.DataFrame) -> int:
    """Returns the number of seeds; raises `ComparisonError` if one run has several and the other not the same."""
    seeds = [sorted(_seeds(run), key=lambda seed: (len(seed), seed)) for run in (first, second)]
    if max(map(len, seeds)) > 1 and seeds[0] != seeds[1]:
        said = [", ".join(names) or "none named" for names in seeds]
        raise ComparisonError(
            f"The runs have different seeds (baseline: {said[0]}; candidate: {said[1]}): several seeds are compared "
            "in pairs. Train both with the same seeds, or give tables with the rows of the common seeds."
        )
    return max(1, len(seeds[0]))


def _same_folds(first: pandas.DataFrame, second: pandas.DataFrame) -> bool | None:
    """Returns whether both runs have the same folds, whatever their names; `None` if a table has no folds."""
    if "fold" not in first or "fold" not in second:
        return None
    pairs = set(zip(first["fold"].astype(str), second["fold"].astype(str), strict=True))
    return len(pairs) == first["fold"].nunique() == second["fold"].nunique()


def _check_same(first: pandas.DataFrame, second: pandas.DataFrame) -> None:
    """Raises ComparisonError unless both hold the same utterances, speakers, emotions and classes."""
    only = [sorted(set(one.index) - set(other.index)) for one, other in ((first, second), (second, first))]
    if only[0] or only[1]:
        found = [
            f"{len(paths)} only in the {run} ({_few(paths)})"
            for paths, run in zip(only, ("baseline", "candidate"), strict=True)
            if paths
        ]
        raise ComparisonError(f"The runs were tested on different utterances: {'; '.join(found)}.")
    for column in ("speaker", "emotion"):
        if paths := list(first.index[first[column].astype(str) != second[column].astype(str)]):
            one, other = first.loc[paths[0], column], second.loc[paths[0], column]
            raise ComparisonError(
                f"The runs disagree on the {column} of {len(paths)} utterances: {paths[0]} is {one!r} in the "
                f"baseline, {other!r} in the candidate."
            )
    classes = [{name for name in map(str, run) if name.startswith("probability_")} for run in (first, second)]
    if classes[0] != classes[1]:
        differing = sorted(name.removeprefix("probability_") for name in classes[0] ^ classes[1])
        raise ComparisonError(f"The runs have different classes: only one of them has {', '.join(differing)}.")


def _few(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")


def comparison_table(comparison: Comparison, names: tuple[str, str] = ("baseline", "candidate")) -> str:
    """Returns what `compare` returned as text for a terminal, in percent; `names` are those of the two runs."""
    percent = f"{100 * comparison.confidence:g}%"
    rows = [["", *names, "difference", f"{percent} interval", "P(real)", "p", "better"]]
    for metric, figures in comparison.metrics.items():
        winner = {"baseline": names[0], "candidate": names[1], None: "-"}[figures.better]
        rows.append(
            [
                NAMES[metric],
                f"{100 * figures.baseline:.1f}",
                f"{100 * figures.candidate:.1f}",
                f"{100 * figures.difference:+.1f}",
                f"{100 * figures.low:+.1f} to {100 * figures.high:+.1f}",
                f"{figures.probability:.3f}",
                f"{figures.p:.4f}",
                winner,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    seeds = f" of {comparison.seeds} trainings each" if comparison.seeds > 1 else ""
    remarks = [
        f"{comparison.utterances} test utterances{seeds} pooled, {comparison.speakers} speakers drawn "
        f"{comparison.resamples} times (seed {comparison.seed}), the same for both runs."
    ]
    needed = math.ceil(1 - math.log2(1 - comparison.confidence) - 1e-9)  # of the sign test, see `compare`
    if comparison.speakers < needed:
        remarks.append(f"Too few speakers for a claim at {percent}, whatever P(real) is: {needed} are needed.")
    if comparison.same_folds is False:
        remarks.append("The runs have different folds, which may explain part of the difference.")
    return "\n".join([*lines, "", *remarks])
