"""The result of a run, a cross-validation, one run of a grid or an evaluation: typed, and as `metrics.json`."""

import json
import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pandas

from whisper_ser.data.leakage import AuditResult
from whisper_ser.errors import DamagedFileError, WhisperSerError
from whisper_ser.evaluation.bootstrap import MIN_SPEAKERS, Intervals, group_matrices, speaker_intervals
from whisper_ser.evaluation.calibration import CoveragePoint, coverage, with_temperature
from whisper_ser.evaluation.metrics import (
    SerMetrics,
    class_indices,
    class_pairs,
    expected_calibration_error,
    matrix_scores,
)
from whisper_ser.io import SEAL, cache_folder, file_sha256, read_sealed, replacing, sealed

METRICS_FILE = "metrics.json"
"""Written last: a folder that has it holds a complete run."""
PREDICTIONS = "predictions.parquet"
PREDICTIONS_SHA256 = "predictions_sha256"
VERSION = 2
"""Of the schema of `metrics.json`."""
HEADER = {"version": VERSION, "unit": "fraction"}
MAX_LINE = 160
"""Characters of an object of `metrics.json` that stands on one line."""


class ResultError(WhisperSerError, ValueError):
    """A file that is not a result, or is one of another version."""


@dataclass(frozen=True)
class Figures:
    """Metrics as fractions of 1, or the standard deviations of metrics.

    Attributes:
        wa, ua, f1, macro_f1: as `metrics.matrix_scores` defines them.
        ece: expected calibration error; `None` without probabilities.
        ece_before: the same without the temperature; equal to `ece` where none was fitted.
    """

    wa: float
    ua: float
    f1: float
    macro_f1: float
    ece: float | None
    ece_before: float | None


@dataclass(frozen=True)
class Scores(Figures):
    """Metrics of a set of utterances, or their means over folds.

    Attributes:
        utterances: number of utterances, of all folds together.
        recall: of each label, `None` for a label without utterances.
        confusion_matrix: counts, true labels by row, predicted labels by column; the sum over folds.
    """

    utterances: int
    recall: dict[str, float | None]
    confusion_matrix: list[list[int]]


@dataclass(frozen=True)
class Deviations:
    """Population standard deviations of a cross-validation.

    Attributes:
        folds: over all folds, those of all seeds together.
        seeds: over the seeds' means; `None` for one seed.
    """

    folds: Figures
    seeds: Figures | None


@dataclass(frozen=True)
class Group:
    """Metrics of the utterances of a group of speakers."""

    utterances: int
    speakers: int
    wa: float
    ua: float


@dataclass(frozen=True)
class Spread:
    """The spread of a metric over speakers of equal weight; `std` is the population standard deviation."""

    min: float
    median: float
    max: float
    std: float


@dataclass(frozen=True)
class SpeakerSpread:
    """The spread of WA and UA over a number of speakers."""

    speakers: int
    wa: Spread
    ua: Spread


@dataclass(frozen=True)
class Corpus:
    """The corpus of a run."""

    name: str
    description: str
    languages: list[str]
    license: str
    homepage: str
    citation: str
    utterances: int
    speakers: int
    hours: float


@dataclass(frozen=True)
class Protocol:
    """How a result was obtained.

    Attributes:
        name: of the protocol that cut the folds; `split` for one split.
        selection: how the epoch was chosen; `None` where nothing was trained.
        refit: whether models were trained again on the validation speakers too.
        seeds, folds: seeds and names of the folds.
    """

    name: str
    selection: str | None = None
    refit: bool = False
    seeds: list[int] = field(default_factory=list)
    folds: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Model:
    """The model of a run.

    Attributes:
        base: Hub id of the checkpoint that the weights are from, or the name of its folder.
        on_hub: whether `base` is a Hub id.
        pad_to_seconds: window that utterances are padded or cut to; `None` for spoken frames only.
        config: the fields of `WhisperSerConfig`, and the labels.
    """

    base: str
    on_hub: bool
    pad_to_seconds: float | None
    config: dict[str, Any]


@dataclass(frozen=True)
class TrainingFacts:
    """Epochs, batch size, peak learning rate, duration in seconds, number of processes and device of a training."""

    epochs: float
    batch_size: int
    learning_rate: float
    seconds: float
    processes: int
    device: str


@dataclass(frozen=True)
class Epoch:
    """Loss after an epoch, and WA, UA and F1 of the parts that were evaluated after it."""

    epoch: float
    loss: float | None = None
    validation: dict[str, float] | None = None
    test: dict[str, float] | None = None


@dataclass(frozen=True)
class FoldResult:
    """One training on one fold.

    Attributes:
        name: of the fold.
        temperature: fitted on the validation utterances; 1 where there are none.
        train_speakers, validation_speakers, test_speakers: names, sorted; empty for an unknown speaker.
    """

    name: str
    seed: int
    test: Scores
    validation: Scores | None
    temperature: float
    train_speakers: list[str]
    validation_speakers: list[str]
    test_speakers: list[str]
    history: list[Epoch]


@dataclass(frozen=True)
class RunResult:
    """The result of a run, a cross-validation, one run of a grid or an evaluation.

    Attributes:
        labels: in the order of the logits.
        test: of the test utterances; the mean over folds of a cross-validation.
        deviations: of a cross-validation.
        pooled: of the test utterances of all folds of a cross-validation together.
        intervals, by_gender, by_speaker: of the test utterances; `None` where speakers or genders are unknown, or
            speakers too few.
        coverage: accuracy of the answers above each threshold.
        folds: each training; empty for an evaluation.
        training: the duration is that of all folds; `None` for an evaluation.
        audit: of the folds; `None` in the folder of one run of a cross-validation.
        warnings: for every table: leaks that were allowed.
        versions: of the packages.
        identity: hash of everything that the result of one run of a grid depends on.
    """

    labels: list[str]
    test: Scores
    deviations: Deviations | None
    pooled: Scores | None
    intervals: Intervals | None
    by_gender: dict[str, Group] | None
    by_speaker: SpeakerSpread | None
    coverage: list[CoveragePoint]
    corpus: Corpus
    protocol: Protocol
    model: Model
    training: TrainingFacts | None = None
    folds: list[FoldResult] = field(default_factory=list)
    audit: AuditResult | None = None
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    identity: str | None = None

    @property
    def is_cross_validation(self) -> bool:
        """Whether this is a cross-validation."""
        return self.deviations is not None

    @property
    def all_utterances(self) -> Scores:
        """Metrics of all test utterances together."""
        return self.pooled or self.test

    @property
    def validation(self) -> Scores | None:
        """Metrics of the validation part of a single run."""
        return self.folds[0].validation if len(self.folds) == 1 else None

    @property
    def fitted(self) -> int:
        """Number of folds whose temperature was fitted."""
        return sum(fold.validation is not None for fold in self.folds)


@cache
def ser_metrics() -> SerMetrics:
    """Returns the metric; it evaluates in memory."""
    return SerMetrics(keep_in_memory=True, cache_dir=str(cache_folder() / "metrics"))


def score(test: pandas.DataFrame, labels: list[str], temperature: float | np.ndarray = 1.0) -> Scores:
    """Returns the metrics of a predictions table.

    Args:
        test: rows with `emotion`, `predicted` and the probability of each label, with the temperature.
        labels: in the order of the logits.
        temperature: of the model, or of the model of each row `(utterances, 1)`.
    """
    references, probabilities = test["emotion"].to_numpy(), probabilities_of(test, labels)
    found = ser_metrics().compute(
        references=references, predictions=test["predicted"].to_numpy(), labels=labels, probabilities=probabilities
    )
    uncalibrated = with_temperature(probabilities, 1 / temperature)
    indices = class_indices(references, labels, "references")
    return Scores(**found, ece_before=expected_calibration_error(indices, uncalibrated))


def probabilities_of(rows: pandas.DataFrame, labels: list[str]) -> np.ndarray:
    """Returns the probabilities `(utterances, labels)` of a predictions table."""
    return rows[[f"probability_{label}" for label in labels]].to_numpy()


def confidence_of(test: pandas.DataFrame, labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probability of the predicted label of each utterance, and whether the prediction is right."""
    return probabilities_of(test, labels).max(1), (test["emotion"] == test["predicted"]).to_numpy()


def intervals_of(test: pandas.DataFrame, labels: list[str]) -> Intervals | None:
    """Returns intervals over the speakers of test predictions; `None` for unknown or fewer than six speakers."""
    if _speakers(test) < MIN_SPEAKERS:
        return None
    return speaker_intervals(test["emotion"].to_numpy(), test["predicted"].to_numpy(), test["speaker"], labels)


def _speakers(test: pandas.DataFrame) -> int:
    """Returns the number of speakers, 0 where any is unknown."""
    return test["speaker"].nunique() if (test["speaker"] != "").all() else 0


def statistics_of(test: pandas.DataFrame, labels: list[str]) -> dict[str, Any]:
    """Returns the fields of `RunResult` about speakers and coverage, from the test predictions."""
    references, predictions = class_pairs(test["emotion"].to_numpy(), test["predicted"].to_numpy(), labels)
    by_speaker = by_gender = None
    if (speakers := _speakers(test)) > 1:
        _, matrices = group_matrices(references, predictions, test["speaker"], len(labels))
        scores = matrix_scores(matrices)
        by_speaker = SpeakerSpread(speakers, _spread(scores["wa"]), _spread(scores["ua"]))
    if (test["gender"] != "").all():
        genders, matrices = group_matrices(references, predictions, test["gender"], len(labels))
        scores = matrix_scores(matrices)
        by_gender = {
            gender: Group(
                utterances=int(matrices[number].sum()),
                speakers=test.loc[test["gender"] == gender, "speaker"].nunique(),
                wa=float(scores["wa"][number]),
                ua=float(scores["ua"][number]),
            )
            for number, gender in enumerate(genders)
        }
    return {
        "intervals": intervals_of(test, labels),
        "by_gender": by_gender,
        "by_speaker": by_speaker,
        "coverage": coverage(*confidence_of(test, labels)),
    }


def _spread(values: np.ndarray) -> Spread:
    return Spread(*(float(of(values)) for of in (np.min, np.median, np.max, np.std)))


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Returns the mean over folds, all of equal weight: of each recall over the folds that have its label."""
    recalls = {label: [one.recall[label] for one in scores] for label in scores[0].recall}
    return Scores(
        **asdict(_over(np.mean, scores)),
        utterances=sum(one.utterances for one in scores),
        recall={label: _mean([value for value in of if value is not None]) for label, of in recalls.items()},
        confusion_matrix=np.sum([one.confusion_matrix for one in scores], axis=0).tolist(),
    )


def deviations_of(folds: Sequence[FoldResult]) -> Deviations:
    """Returns the deviations over folds and seeds; divided by their number, as in the paper (Section 4.2)."""
    seeds = dict.fromkeys(fold.seed for fold in folds)
    means = [mean_scores([fold.test for fold in folds if fold.seed == seed]) for seed in seeds]
    return Deviations(
        folds=_over(np.std, [fold.test for fold in folds]), seeds=_over(np.std, means) if len(seeds) > 1 else None
    )


def _over(statistic: Any, scores: Sequence[Figures]) -> Figures:
    values = {one.name: [getattr(of, one.name) for of in scores] for one in fields(Figures)}
    found: dict[str, Any] = {name: None if None in of else float(statistic(of)) for name, of in values.items()}
    return Figures(**found)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def join_folds(
    folders: Sequence[Path], protocol: str, audit: AuditResult, warnings: Sequence[str]
) -> tuple[RunResult, pandas.DataFrame]:
    """Returns the result of a cross-validation and all its predictions, with the columns `fold` and `seed`.

    Args:
        folders: of its trainings, each of one fold with one seed.
        protocol: name of the protocol that cut the folds.

    Raises:
        DamagedFileError: a result or predictions were changed.
    """
    results = [read_result(folder / METRICS_FILE) for folder in folders]
    folds, first = [fold for result in results for fold in result.folds], results[0]
    tables = [
        read_predictions(folder).assign(fold=fold.name, seed=fold.seed)
        for folder, fold in zip(folders, folds, strict=True)
    ]
    tests = [table[table["part"] == "test"] for table in tables]
    test = pandas.concat(tests)
    temperatures = np.repeat([fold.temperature for fold in folds], [len(rows) for rows in tests])
    seconds = sum(result.training.seconds for result in results if result.training)
    result = replace(
        first,
        test=mean_scores([fold.test for fold in folds]),
        deviations=deviations_of(folds),
        pooled=score(test, first.labels, temperatures[:, None]),
        **statistics_of(test, first.labels),
        protocol=replace(
            first.protocol,
            name=protocol,
            seeds=list(dict.fromkeys(fold.seed for fold in folds)),
            folds=list(dict.fromkeys(fold.name for fold in folds)),
        ),
        training=first.training and replace(first.training, seconds=round(seconds, 1)),
        folds=folds,
        audit=audit,
        warnings=list(warnings),
        identity=None,
    )
    return result, pandas.concat(tables)


def write_result(folder: Path, result: RunResult, predictions: pandas.DataFrame) -> None:
    """Writes the predictions, then `metrics.json` with the checksums of both."""
    with replacing(folder / PREDICTIONS) as path:
        predictions.to_parquet(path, index=False)
        of_predictions = file_sha256(path)
    with replacing(folder / METRICS_FILE) as path:
        content = sealed({**HEADER, **asdict(result), PREDICTIONS_SHA256: of_predictions})
        path.write_text(_layout(content) + "\n", encoding="utf-8")


def _layout(value: Any, indent: str = "") -> str:
    """Returns JSON with short objects and all lists of plain values on one line; a matrix has a line for each row."""
    flat, deeper = json.dumps(value), indent + "  "
    if isinstance(value, dict) and (len(flat) > MAX_LINE or "[[" in flat):
        items = [f"{deeper}{json.dumps(name)}: {_layout(one, deeper)}" for name, one in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        return "[\n" + ",\n".join(deeper + _layout(one, deeper) for one in value) + f"\n{indent}]"
    return flat


def read_result(path: Path) -> RunResult:
    """Returns the result that a file `metrics.json` holds.

    Raises:
        DamagedFileError: the file was changed.
        ResultError: the file is no result, or one of another version.
        FileNotFoundError: there is no such file.
    """
    content = read_sealed(path)
    if content.get("version") != VERSION:
        raise ResultError(
            f"{path} is not a result of this version of whisper-ser (version {content.get('version', 1)} of "
            f"{METRICS_FILE}, expected {VERSION}): run the same command again, into another --output_dir."
        )
    if SEAL not in content:
        raise DamagedFileError(path)
    result = {name: one for name, one in content.items() if name not in (*HEADER, SEAL, PREDICTIONS_SHA256)}
    try:
        return _typed(RunResult, result)
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{path} is not a result ({error}): run the command that wrote it again.") from error


def _typed(kind: Any, value: Any) -> Any:
    """Returns a value of a JSON file as `kind`, the declared type of a field."""
    inner = get_args(kind)
    if types.NoneType in inner:
        return None if value is None else _typed(inner[0], value)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _typed(hints[name], one) for name, one in value.items()})  # type: ignore[operator]
    if get_origin(kind) is list:
        return [_typed(inner[0], one) for one in value]
    if get_origin(kind) is dict:
        return {name: _typed(inner[1], one) for name, one in value.items()}
    return value


def check_predictions(folder: Path) -> None:
    """Raises `DamagedFileError` unless the predictions of a run have the checksum in its metrics, of any version."""
    path = folder / PREDICTIONS
    expected = read_sealed(folder / METRICS_FILE).get(PREDICTIONS_SHA256)
    if expected is not None and (not path.is_file() or file_sha256(path) != expected):
        raise DamagedFileError(path)


def read_predictions(folder: Path) -> pandas.DataFrame:
    """Returns the predictions of a finished run; raises as `check_predictions`."""
    check_predictions(folder)
    return pandas.read_parquet(folder / PREDICTIONS)
