"""What `metrics.json` says of a test, in one form for a single split and for a cross-validation."""

from typing import Any, NamedTuple

NAMES = {
    "wa": "WA (accuracy)",
    "ua": "UA (mean recall of the classes)",
    "f1": "F1 (weighted by support)",
    "macro_f1": "macro F1",
}
FOLDS = {
    "loso": "each speaker left out once",
    "group": "each session or published group left out once",
    "speaker_groups": "groups of speakers left out in turn",
    "fold": "the published folds",
    "fixed": "the published parts",
    "stratified": "random folds of utterances, since speakers are not known",
    "auto": "folds chosen by what the corpus publishes",
}

FEWEST_SPEAKERS = 5
"""From which on an interval over speakers is shown: with fewer it promises far too much."""


class Figure(NamedTuple):
    """One figure of a test, as fractions.

    Attributes:
        metric: `wa`, `ua`, `f1` or `macro_f1`.
        value: of the test; the mean over folds of a cross-validation.
        deviation: population standard deviation over folds, `None` for a single split.
        pooled: of all utterances together.
        interval: `{"low", "high"}` over speakers of the pooled figure, or `None`.
    """

    metric: str
    value: float
    deviation: float | None
    pooled: float
    interval: dict[str, float] | None


class Results(NamedTuple):
    """A test, whichever way it was made.

    Attributes:
        kind: `cross-validation` or `split`.
        protocol: in words.
        pooled: recall, confusion matrix and number of all test utterances.
        ece: expected calibration error; the mean over folds.
        ece_before: the same without the temperature; `None` where no temperature was fitted.
        intervals: over speakers, `None` where there are too few.
    """

    kind: str
    protocol: str
    figures: list[Figure]
    pooled: dict[str, Any]
    ece: float
    ece_before: float | None
    intervals: dict[str, Any] | None


def is_cross_validation(metrics: dict[str, Any]) -> bool:
    """Returns whether the metrics are of a cross-validation, not of one split."""
    return "folds" in metrics


def results_of(metrics: dict[str, Any]) -> Results:
    """Returns the test that `metrics.json` tells of."""
    test, intervals, calibration = metrics["test"], metrics["intervals"], metrics["calibration"]
    if intervals and intervals["speakers"] < FEWEST_SPEAKERS:
        intervals = None
    if is_cross_validation(metrics):
        means = {name: test[name]["mean"] for name in NAMES}
        deviations: dict[str, float | None] = {name: test[name]["std"] for name in NAMES}
        pooled, ece = {**test["pooled"], "utterances": test["utterances"]}, test["ece"]["mean"]
        before = calibration["ece_before"]["mean"] if calibration["fitted"] else None
        protocol = _of_folds(metrics)
    else:
        means, deviations, pooled, ece = {n: test[n] for n in NAMES}, dict.fromkeys(NAMES), test, test["ece"]
        before = calibration["ece_before"] if calibration["validation_utterances"] else None
        protocol = _of_split(metrics["protocol"])
    figures = [
        Figure(name, means[name], deviations[name], pooled[name], intervals[name] if intervals else None)
        for name in NAMES
    ]
    kind = "cross-validation" if is_cross_validation(metrics) else "split"
    return Results(kind, protocol, figures, pooled, ece, before, intervals)


def _of_split(protocol: dict[str, Any]) -> str:
    validation = protocol["validation_speakers"]
    parts = [f"speakers {', '.join(protocol['test_speakers'])} test"]
    if validation:
        parts.append(f"{', '.join(validation)} validate")
    parts.append(f"{len(protocol['train_speakers'])} others train")
    shared = set(protocol["test_speakers"]) & set(protocol["train_speakers"])
    return f"one split: {', '.join(parts)}; {_sharing(bool(shared))}; {_selection(protocol)}"


def _of_folds(metrics: dict[str, Any]) -> str:
    folds, protocol = metrics["folds"], metrics["protocol"]
    unknown = any("" in fold["test_speakers"] or not fold["test_speakers"] for fold in folds)
    shared = any(set(fold["test_speakers"]) & set(fold["train_speakers"]) for fold in folds)
    sharing = "speakers are not known" if unknown else _sharing(shared)
    count = len(folds) // len(protocol["seeds"])
    return f"{count} folds, {FOLDS[protocol['name']]}; {sharing}; {_selection(protocol)}"


def _sharing(shared: bool) -> str:
    return "training and test share speakers" if shared else "no speaker in two parts"


def _selection(protocol: dict[str, Any]) -> str:
    kept = {
        "last": "last epoch kept",
        "validation": "epoch chosen on the validation speakers",
        "test_best": "epoch chosen on the test part itself, which flatters",
    }
    seeds = protocol.get("seeds") or [protocol["seed"]]
    refit = (
        "; trained anew on validation speakers too, once they gave the temperature" if protocol.get("refit") else ""
    )
    return f"{kept[protocol['selection']]}{refit}; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
