"""Metrics: equal to scikit-learn and to slow loops, absent classes included; the Hub's file equals the package."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
import time
import warnings
from types import ModuleType

import numpy as np
import pandas
import pytest
import torch
from conftest import ROOT
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, recall_score

from whisper_ser.errors import WhisperSerError
from whisper_ser.evaluation.metrics import METRICS, EvaluationError, expected_calibration_error
from whisper_ser.evaluation.results import ser_metrics as package_metric

FOLDER = ROOT / "metrics" / "ser_metrics"
CASES = 400


@pytest.fixture(scope="module")
def ser_metrics() -> ModuleType:
    """The Hub's file, imported directly."""
    spec = importlib.util.spec_from_file_location("ser_metrics", FOLDER / "ser_metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evaluate(references, predictions, labels=None, probabilities=None) -> dict:
    """Returns what training, cross-validation and evaluation compute."""
    options = {"labels": labels, "probabilities": probabilities}
    return package_metric().compute(references=references, predictions=predictions, **options)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns references, predictions and labels: 2 to 8 classes, any of which either side may lack."""
    rng = np.random.default_rng(seed)
    num_labels = int(rng.integers(2, 9))
    utterances = 1 if seed % 10 == 0 else int(rng.integers(2, 60))
    sides = [
        rng.choice(rng.choice(num_labels, int(rng.integers(1, num_labels + 1)), replace=False), utterances)
        for _ in range(2)
    ]
    right = rng.random(utterances) < rng.random()
    mixed = np.where(right, sides[0], sides[1])
    references, predictions = (sides[0], mixed) if seed % 2 else (mixed, sides[0])
    return references, predictions, [f"label {index}" for index in range(num_labels)]


def random_probabilities(utterances: int, num_labels: int, seed: int) -> np.ndarray:
    """Returns distributions `(utterances, num_labels)`, every third case rounded so that many are equal."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_labels, 0.5), utterances)
    if seed % 3 == 0:
        wins = np.round(0.5 + rng.random(utterances) / 2, 1)
        probabilities = np.column_stack([wins, 1 - wins, np.zeros((utterances, num_labels - 2))])
    return probabilities


@pytest.mark.parametrize("first", range(0, CASES, 100))
def test_figures_equal_those_of_scikit_learn(first):
    for seed in range(first, first + 100):
        references, predictions, labels = random_case(seed)
        result = evaluate(references, predictions, labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that only one side has
            expected = {
                "wa": accuracy_score(references, predictions),
                "ua": balanced_accuracy_score(references, predictions),
                "f1": f1_score(references, predictions, average="weighted"),
                "macro_f1": f1_score(references, predictions, average="macro"),
            }
            recall = recall_score(
                references, predictions, labels=range(len(labels)), average=None, zero_division=np.nan
            )
        assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-12), seed
        without_labels = evaluate(references, predictions)
        assert {name: without_labels[name] for name in METRICS} == pytest.approx(expected, abs=1e-12), seed
        assert list(result["recall"]) == labels
        found = [np.nan if value is None else value for value in result["recall"].values()]
        assert found == pytest.approx(list(recall), nan_ok=True)
        matrix = confusion_matrix(references, predictions, labels=range(len(labels)))
        assert result["confusion_matrix"] == matrix.tolist() and result["utterances"] == matrix.sum()


def test_the_random_cases_hold_every_kind_of_absence():
    cases = [random_case(seed)[:2] for seed in range(CASES)]
    assert {len(labels) for *_, labels in map(random_case, range(CASES))} == set(range(2, 9))
    assert sum(len(references) == 1 for references, _ in cases) >= 40
    assert sum(bool(set(predictions) - set(references)) for references, predictions in cases) >= 100
    assert sum(bool(set(references) - set(predictions)) for references, predictions in cases) >= 100


def test_absent_classes_by_hand():
    # Of class 0 one of two is right; class 1 is only predicted; class 2 is right; class 3 occurs nowhere.
    result = evaluate([0, 0, 2], [0, 1, 2], ["a", "b", "c", "d"])
    assert result["wa"] == pytest.approx(2 / 3)
    assert result["ua"] == pytest.approx((1 / 2 + 1) / 2)
    assert result["f1"] == pytest.approx((2 * 2 / 3 + 1) / 3)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert result["recall"] == {"a": 0.5, "b": None, "c": 1.0, "d": None}
    assert result["confusion_matrix"] == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_names_and_indices_of_any_container_give_the_same():
    references, predictions, labels = random_case(3)
    expected = evaluate(references, predictions, labels)
    names = [[labels[index] for index in side] for side in (references, predictions)]
    for form in (list, tuple, np.array, lambda side: np.array(side, dtype=object), pandas.Series, pandas.Categorical):
        assert evaluate(*map(form, names), labels) == expected
    for form in (list, torch.tensor, np.int8, lambda side: pandas.Series(side, index=np.arange(len(side)) + 7)):
        assert evaluate(form(references), form(predictions), labels) == expected


# Calibration


def slow_calibration_error(references: np.ndarray, probabilities: np.ndarray, bins: int) -> float:
    """The definition, one utterance and one bin at a time."""
    confidence = [max(row) for row in probabilities]
    right = [list(row).index(max(row)) == label for row, label in zip(probabilities, references, strict=True)]
    members = {}
    for index, value in enumerate(confidence):
        lower = sum(other < value for other in confidence)
        # The bin into which a cut of the ordered utterances in `bins` equal parts puts place number `lower`.
        place = next(b for b in range(bins) if lower * bins < (b + 1) * len(confidence))
        members.setdefault(place, []).append(index)
    return sum(
        len(inside) * abs(np.mean([right[i] for i in inside]) - np.mean([confidence[i] for i in inside]))
        for inside in members.values()
    ) / len(confidence)


def test_calibration_error_equals_a_slow_loop():
    for seed in range(300):
        references, _, labels = random_case(seed)
        probabilities = random_probabilities(len(references), len(labels), seed)
        for bins in (15, 4):
            expected = slow_calibration_error(references, probabilities, bins)
            assert expected_calibration_error(references, probabilities, bins) == pytest.approx(expected, abs=1e-12)
        ece = evaluate(references, references, labels, probabilities)["ece"]
        assert ece == pytest.approx(slow_calibration_error(references, probabilities, 15), abs=1e-12)


def test_bins_hold_equally_many_utterances():
    """With 30 different probabilities each of 15 bins holds two neighbours."""
    rng = np.random.default_rng(0)
    confidence = np.sort(rng.uniform(0.5, 1, 30))
    references = rng.integers(0, 2, 30)
    pairs = np.abs(((references == 0) - confidence).reshape(15, 2).sum(1))
    order = rng.permutation(30)
    probabilities = np.column_stack([confidence, 1 - confidence])
    assert expected_calibration_error(references[order], probabilities[order]) == pytest.approx(pairs.sum() / 30)


@pytest.mark.parametrize(
    ("references", "winning", "bins", "expected"),
    [
        ([0], [0.75], 15, 0.25),
        ([1], [0.75], 15, 0.75),
        # Fewer utterances than bins: each alone. |1 - 0.9| and |0 - 0.6|.
        ([0, 1], [0.9, 0.6], 15, 0.35),
        # One bin: half are right, mean probability 0.75.
        ([0, 1], [0.9, 0.6], 1, 0.25),
        # Two bins, the lower pair half right at 0.6, the upper all right at 0.95.
        ([0, 1, 0, 0], [0.6, 0.6, 0.9, 1.0], 2, (0.1 + 0.05) / 2),
        # Equal probabilities share a bin whatever the order: right as often as said.
        ([0, 0, 0, 1], [0.75, 0.75, 0.75, 0.75], 15, 0.0),
        ([1, 0, 0, 0], [0.75, 0.75, 0.75, 0.75], 15, 0.0),
    ],
)
def test_calibration_error_by_hand(references, winning, bins, expected):
    probabilities = [[value, 1 - value] for value in winning]
    assert expected_calibration_error(references, probabilities, bins) == pytest.approx(expected)


def test_calibration_is_that_of_the_winning_class_whatever_was_predicted():
    probabilities = [[0.2, 0.8], [0.7, 0.3]]
    figures = [evaluate([1, 0], predictions, ["a", "b"], probabilities)["ece"] for predictions in ([1, 0], [0, 1])]
    assert figures == pytest.approx([0.25, 0.25])


def test_half_precision_probabilities_pass():
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float16)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert probabilities.dtype == np.float16
    evaluate(np.zeros(50, int), np.zeros(50, int), list("abcdefg"), probabilities)


# What is refused

WRONG = [
    ([], [], None, "No utterances"),
    ([0, 1], [0], None, "2 references but 1 predictions"),
    ([0, 2], [0, 1], None, r"references hold unknown labels \[2\]"),
    ([0, 1], [0, -1], None, r"predictions hold unknown labels \[-1\]"),
    (["a", "b"], ["a", "c"], None, r"predictions hold unknown labels \['c'\]. The labels are \{0: 'a', 1: 'b'\}"),
    ([0, float("nan")], [0, 1], None, "references lack a label .* first at 1"),
    (["a", "b"], [None, "b"], None, "predictions lack a label .* first at 0"),
    ([0, 1], [0, 0.5], None, "predictions must be all class indices"),
    ([True, False], [0, 1], None, "references must be all class indices"),
    (["a", 1], [0, 1], None, "references must be all class indices"),
    ([0, 1], [0, 1], [[0.5, 0.5]], r"shape \(2 utterances, 2 labels\), not \(1, 2\)"),
    ([0, 1], [0, 1], [[0.5, 0.3, 0.2]] * 2, r"not \(2, 3\)"),
    ([0, 1], [0, 1], [0.5, 0.5], r"not \(2,\)"),
    ([0, 1], [0, 1], [[0.5, 0.5], [0.5]], "rows of numbers"),
    ([0, 1], [0, 1], [[0.5, 0.5], [0.5, float("nan")]], "NaN"),
    ([0, 1], [0, 1], [[0.5, 0.5], [0.5, 0.4]], "sum to 1"),
    ([0, 1], [0, 1], [[0.5, 0.5], [1.5, -0.5]], "between 0 and 1"),
    ([0, 1], [0, 1], [[0.5, 0.5], [float("inf"), 0]], "between 0 and 1"),
]


@pytest.mark.parametrize(("references", "predictions", "probabilities", "message"), WRONG)
def test_what_cannot_be_evaluated_is_refused(references, predictions, probabilities, message):
    with pytest.raises(EvaluationError, match=message) as error:
        evaluate(references, predictions, ["a", "b"], probabilities)
    assert isinstance(error.value, WhisperSerError) and isinstance(error.value, ValueError)


@pytest.mark.parametrize(("references", "predictions", "probabilities", "message"), WRONG)
def test_the_metric_refuses_the_same(ser_metrics, tmp_path, references, predictions, probabilities, message):
    metric = ser_metrics.SerMetrics(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=message):
        metric.compute(references=references, predictions=predictions, labels=["a", "b"], probabilities=probabilities)


def test_calibration_alone_refuses_too():
    with pytest.raises(EvaluationError, match="shape"):
        expected_calibration_error(np.array([], int), np.zeros((0, 2)))
    with pytest.raises(EvaluationError, match="unknown labels"):
        expected_calibration_error(np.array([2]), [[0.5, 0.5]])


# The metric of the Hub


def test_the_metric_is_what_its_command_writes():
    source = (FOLDER / "ser_metrics.py").read_text()
    assert runpy.run_path(str(FOLDER.parent / "build.py"))["built"]() == source, "run `make metric`"


def test_the_metric_equals_the_package(ser_metrics, tmp_path):
    metric = ser_metrics.SerMetrics(cache_dir=str(tmp_path))
    for seed in range(40):
        references, predictions, labels = random_case(seed)
        probabilities = random_probabilities(len(references), len(labels), seed)
        expected = evaluate(references, predictions, labels, probabilities)
        given = {"labels": labels, "probabilities": probabilities}
        assert metric.compute(references=references, predictions=predictions, **given) == expected
        names = [[labels[index] for index in side] for side in (references, predictions)]
        assert metric.compute(references=names[0], predictions=names[1], **given) == expected


def test_labels_of_the_metric_default_to_what_is_there(ser_metrics, tmp_path):
    metric = ser_metrics.SerMetrics(cache_dir=str(tmp_path))
    named = metric.compute(references=["sad", "10"], predictions=["sad", "angry"])
    assert named["recall"] == {"10": 0.0, "angry": None, "sad": 1.0}
    assert metric.compute(references=[2, 0], predictions=[2, 2])["recall"] == {"0": 0.0, "1": None, "2": 1.0}
    three = metric.compute(references=[0, 1], predictions=[0, 1], probabilities=[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert list(three["recall"]) == ["0", "1", "2"] and three["ece"] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="labels must say which column"):
        metric.compute(references=["b", "a"], predictions=["a", "b"], probabilities=[[0.5, 0.5]] * 2)


def test_the_metric_takes_batches_and_single_utterances(ser_metrics, tmp_path):
    metric = ser_metrics.SerMetrics(cache_dir=str(tmp_path))
    metric.add_batch(references=["a", "b"], predictions=["a", "a"])
    metric.add(reference="c", prediction="c")
    assert metric.compute(labels=["a", "b", "c"]) == evaluate(["a", "b", "c"], ["a", "a", "c"], ["a", "b", "c"])


def test_evaluate_loads_the_metric_without_a_network(tmp_path):
    """From a process of its own in the repository, with an empty cache and without this package on the path."""
    references, predictions, labels = random_case(5)
    probabilities = random_probabilities(len(references), len(labels), 5)
    case = {
        "references": references.tolist(),
        "predictions": predictions.tolist(),
        "labels": labels,
        "probabilities": probabilities.tolist(),
    }
    code = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
metric = evaluate.load("metrics/ser_metrics")
print(json.dumps(metric.compute(**json.load(sys.stdin))))
assert not any(name.startswith("whisper_ser") for name in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=json.dumps(case),
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "USE_TORCH": "0"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == evaluate(references, predictions, labels, probabilities)


def test_the_metric_s_card_shows_what_it_returns(ser_metrics, tmp_path):
    """The card's example is run, and its comment is the result."""
    block = (FOLDER / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    call, comment = block.split("metric.compute(")[1].split(")\n# ")
    metric = ser_metrics.SerMetrics(cache_dir=str(tmp_path))
    result = eval(f"metric.compute({call})", {"metric": metric})
    assert result == eval(comment.replace("\n#", "\n"))


def test_the_metric_of_the_package_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPER_SER_CACHE", str(tmp_path))
    package_metric.cache_clear()
    evaluate(["a", "b"], ["a", "a"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    package_metric.cache_clear()


def test_the_metric_is_quick_enough_for_every_epoch():
    references, predictions = np.random.default_rng(0).integers(0, 8, (2, 1440))
    evaluate(references, predictions)
    begin = time.process_time()
    for _ in range(10):
        evaluate(references, predictions)
    assert (time.process_time() - begin) / 10 < 0.1
