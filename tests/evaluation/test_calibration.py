"""Temperatures against a grid and scikit-learn, coverage against a plain loop, and both in the folder of a run."""

import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import write_corpus
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from modeling_whisper_ser import WhisperForEmotionClassification
from whisper_ser.commands import train as run_train
from whisper_ser.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    CoveragePoint,
    coverage,
    fit_temperature,
    with_temperature,
)
from whisper_ser.evaluation.metrics import expected_calibration_error
from whisper_ser.evaluation.results import RunResult, read_result
from whisper_ser.inference.predict import predict
from whisper_ser.training.models import build_model
from whisper_ser.training.settings import ModelArguments


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.asarray(logits, dtype=np.float64)).softmax(-1).numpy()


def drawn(utterances: int, labels: int, scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits `scale` times as large as those that the labels are drawn from."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((utterances, labels))
    references = np.array([rng.choice(labels, p=p) for p in softmax(logits)])
    return (scale * logits).astype(np.float32), references


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("utterances", [30, 400])
def test_the_temperature_is_the_likeliest(scale, utterances):
    logits, references = drawn(utterances, 4, scale, seed=utterances)
    temperature = fit_temperature(logits, references)

    # One more utterance that says nothing: each label's share of the others' references.
    weights = np.full((utterances, 4), 1 / (utterances + 1) / 4)
    weights[np.arange(utterances), references] += utterances / (utterances + 1)

    def loss(candidate: float) -> float:
        """Scikit-learn's, every utterance once with each label."""
        repeated = softmax(logits.astype(float) / candidate).repeat(4, axis=0)
        return log_loss(np.tile(range(4), utterances), repeated, sample_weight=weights.ravel(), labels=range(4))

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8})
    assert temperature == pytest.approx(best.x, rel=1e-3)
    assert loss(temperature) <= min(map(loss, np.geomspace(0.05, 20, 300))) + 1e-9


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_with_many_utterances_it_is_the_plain_maximum_of_the_likelihood(scale):
    logits, references = drawn(2000, 4, scale, seed=5)
    plain = minimize_scalar(
        lambda candidate: log_loss(references, softmax(logits / candidate)), bounds=(0.05, 20), method="bounded"
    )
    assert fit_temperature(logits, references) == pytest.approx(plain.x, rel=0.01)


def test_it_finds_by_how_much_the_logits_were_scaled():
    logits, references = drawn(5000, 5, 2.5, seed=1)
    assert fit_temperature(logits, references) == pytest.approx(2.5, rel=0.1)


def test_huge_logits_and_wrong_models_have_bounded_temperatures():
    assert fit_temperature(np.array([[1e5, 0.0], [1e5, 0.0]]), np.array([0, 1])) == pytest.approx(MAX_TEMPERATURE)
    assert fit_temperature(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 0])) == pytest.approx(MAX_TEMPERATURE)
    assert fit_temperature(np.array([[1e-3, 0.0]] * 9), np.zeros(9, int)) == pytest.approx(MIN_TEMPERATURE)


def test_a_few_utterances_all_right_prove_nobody_infallible():
    # 9 of 9 right: 9.5 of 10 are expected, so the odds are 19 and the logits differ by their logarithm.
    temperature = fit_temperature(np.array([[8.0, 0.0]] * 9), np.zeros(9, int))
    assert 8 / temperature == pytest.approx(np.log(19))


def test_a_temperature_on_probabilities_is_one_on_logits_and_can_be_taken_back():
    logits, _ = drawn(50, 4, 6.0, seed=3)
    hot = with_temperature(softmax(logits), 2.5)
    assert np.allclose(hot, softmax(logits / 2.5), atol=1e-12)
    assert np.allclose(with_temperature(hot, 1 / 2.5), softmax(logits), atol=1e-9)
    assert np.allclose(with_temperature(np.array([[1.0, 0.0]], np.float32), 0.1), [[1, 0]])


def slow_coverage(confidence: list[float], right: list[bool], threshold: float) -> tuple[float, float]:
    answered = [r for c, r in zip(confidence, right, strict=True) if c >= threshold]
    return len(answered) / len(confidence), sum(answered) / len(answered)


def test_coverage_is_what_abstaining_below_the_threshold_leaves():
    rng = np.random.default_rng(0)
    # Rounded, so that many utterances share a confidence.
    confidence = rng.uniform(0.3, 1.0, 157).round(2)
    right = rng.uniform(size=157) < confidence
    points = coverage(confidence, right)
    assert len(points) == len({point.threshold for point in points}) <= 20
    assert points[0] == CoveragePoint(confidence.min(), 1.0, right.mean())
    assert [point.coverage for point in points] == sorted((point.coverage for point in points), reverse=True)
    for point in points:
        expected = slow_coverage(confidence.tolist(), right.tolist(), point.threshold)
        assert (point.coverage, point.wa) == pytest.approx(expected)


def test_coverage_by_hand():
    points = coverage(np.array([0.5, 0.9, 0.7, 0.7]), np.array([False, True, True, False]))
    assert points == [CoveragePoint(0.5, 1.0, 0.5), CoveragePoint(0.7, 0.75, 2 / 3), CoveragePoint(0.9, 0.25, 1.0)]
    assert coverage(np.array([0.6, 0.6]), np.array([True, False])) == [CoveragePoint(0.6, 1.0, 0.5)]


def result_of(run: Path) -> RunResult:
    return read_result(run / "metrics.json")


def probabilities(table: pandas.DataFrame) -> np.ndarray:
    return table[["probability_calm", "probability_excited"]].to_numpy(float)


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory) -> Path:
    """Tones, some under the wrong name: nobody gets all of them right."""
    folder = write_corpus(tmp_path_factory.mktemp("mislabelled"), speakers=6)
    table = pandas.read_csv(folder / "metadata.csv", dtype=str)
    wrong = table.index % 5 == 2
    table.loc[wrong, "emotion"] = table["emotion"][wrong].map({"calm": "excited", "excited": "calm"})
    table.to_csv(folder / "metadata.csv", index=False)
    return folder


def flags(corpus: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    own = ["--data_dir", str(corpus), "--encoder", str(checkpoint), "--output_dir", str(output), "--layers", "2"]
    return [*own, "--num_train_epochs", "3", "--jobs", "1", *more]


@pytest.fixture(scope="module")
def run(mislabelled, small_checkpoint, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("calibrated") / "run"
    parts = ["--test_speakers", "04", "05", "--validation_speakers", "02", "03"]
    run_train.main(flags(mislabelled, small_checkpoint, output, *parts))
    return output


def test_a_run_fits_its_temperature_on_the_validation_speakers(run):
    result, table = result_of(run), pandas.read_parquet(run / "predictions.parquet")
    model = WhisperForEmotionClassification.from_pretrained(run / "model")
    assert result.folds[0].temperature == model.config.temperature != 1
    assert result.fitted == 1 and result.validation.utterances == 12
    validation = table[table["part"] == "validation"]
    # On what was divided by the best temperature, the best temperature is 1.
    again = fit_temperature(
        np.log(probabilities(validation)), (validation["emotion"] == "excited").to_numpy().astype(int)
    )
    assert again == pytest.approx(1, abs=0.01)


def test_the_saved_model_divides_by_it_and_decides_alike(run):
    table = pandas.read_parquet(run / "predictions.parquet")
    table = table[table["part"] == "test"].reset_index()
    answers = predict(table["path"].tolist(), run / "model")
    assert [a.probabilities["calm"] for a in answers] == pytest.approx(table["probability_calm"].tolist(), abs=2e-3)
    model = WhisperForEmotionClassification.from_pretrained(run / "model")
    states = torch.randn(4, 1, 20, 32)
    calibrated = model(encoder_hidden_states=states).logits
    temperature, model.config.temperature = model.config.temperature, 1.0
    raw = model(encoder_hidden_states=states).logits
    assert torch.allclose(raw / temperature, calibrated) and torch.equal(raw.argmax(-1), calibrated.argmax(-1))


def test_the_calibration_error_is_told_before_and_after(run):
    result, table = result_of(run), pandas.read_parquet(run / "predictions.parquet")
    test = table[table["part"] == "test"]
    references = (test["emotion"] == "excited").to_numpy().astype(int)
    after = expected_calibration_error(references, probabilities(test))
    before = softmax(np.log(probabilities(test)) * result.folds[0].temperature)
    assert result.test.ece == pytest.approx(after)
    assert result.test.ece_before == pytest.approx(expected_calibration_error(references, before), abs=1e-6)
    assert result.test.ece_before != pytest.approx(after)


def test_coverage_of_a_run_is_that_of_its_test_utterances(run):
    test = pandas.read_parquet(run / "predictions.parquet").query("part == 'test'")
    points = result_of(run).coverage
    confidence, right = probabilities(test).max(1), (test["emotion"] == test["predicted"])
    for point in points:
        expected = slow_coverage(confidence.tolist(), right.tolist(), point.threshold)
        assert (point.coverage, point.wa) == pytest.approx(expected)
    # In the widest gap: stored states were rounded to float16, which moves probabilities a little.
    ranked = np.sort(confidence)
    widest = np.diff(ranked).argmax()
    answers = predict(test["path"].tolist(), run / "model", abstain_below=ranked[widest : widest + 2].mean())
    assert sum(a.label != "uncertain" for a in answers) == len(ranked) - 1 - widest
    assert (run / "coverage.png").read_bytes().startswith(b"\x89PNG")


def test_without_validation_speakers_the_temperature_is_1_and_said_to_be(trained):
    result = result_of(trained)
    assert result.folds[0].temperature == 1 and result.fitted == 0
    assert result.test.ece_before == pytest.approx(result.test.ece)
    card = (trained / "model" / "README.md").read_text()
    assert "this model is 1.00: there were no validation utterances to fit it on." in card


def test_the_card_and_the_summary_tell_it(run, capsys):
    from whisper_ser.report.run import summary

    result, card = result_of(run), (run / "model" / "README.md").read_text()
    assert f"Expected calibration error {result.test.ece:.3f}:" in card
    assert f"It was {result.test.ece_before:.3f} before the logits were divided" in card
    assert f"The temperature of this model is {result.folds[0].temperature:.2f}." in card.replace("\n", " ")
    for point in result.coverage:
        row = f"| {point.threshold:.3f} | {100 * point.coverage:.1f} | {100 * point.wa:.1f} |"
        assert (row in card) == (point.coverage >= 0.499)
    text = summary(result, run)
    assert f"ECE {result.test.ece:.3f}, {result.test.ece_before:.3f} before the temperature" in text
    assert "coverage.png" in text


def test_each_fold_fits_its_own_on_its_own_validation_speakers(mislabelled, small_checkpoint, tmp_path, capsys):
    output = tmp_path / "run"
    folds = ["--protocol", "speaker_groups", "--num_groups", "3", "--validation_fraction", "0.34"]
    run_train.main(flags(mislabelled, small_checkpoint, output, *folds))
    result = result_of(output)
    temperatures = [fold.temperature for fold in result.folds]
    assert len({*temperatures}) == 3 and result.fitted == 3
    assert result.test.ece == pytest.approx(np.mean([fold.test.ece for fold in result.folds]))
    table = pandas.read_parquet(output / "predictions.parquet")
    before = []
    for fold, temperature in zip(result.folds, temperatures, strict=True):
        validation = table[(table["fold"] == fold.name) & (table["part"] == "validation")]
        assert {*validation["speaker"]} == {*fold.validation_speakers}
        truth = (validation["emotion"] == "excited").to_numpy().astype(int)
        assert fit_temperature(np.log(probabilities(validation)), truth) == pytest.approx(1, abs=0.01)
        test = table[(table["fold"] == fold.name) & (table["part"] == "test")]
        before.append(softmax(np.log(probabilities(test)) * temperature))
    tested = table[table["part"] == "test"]
    truth = (tested["emotion"] == "excited").to_numpy().astype(int)
    pooled = result.pooled
    assert pooled.ece == pytest.approx(expected_calibration_error(truth, probabilities(tested)))
    assert pooled.ece_before == pytest.approx(expected_calibration_error(truth, np.concatenate(before)), abs=1e-6)
    assert result.coverage[0].wa == pytest.approx((tested["emotion"] == tested["predicted"]).mean())
    assert (output / "coverage.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"{pooled.ece:.3f} pooled" in printed and "each fold's own validation speakers" in printed


def test_a_model_trained_on_forgets_its_old_temperature(run, mislabelled, tmp_path):
    shutil.copytree(run / "model", tmp_path / "model")
    model, _ = build_model(ModelArguments(model_name_or_path=str(tmp_path / "model")), ["calm", "excited"])
    assert model.config.temperature != 1
    output = tmp_path / "run"
    run_train.main(
        ["--data_dir", str(mislabelled), "--model_name_or_path", str(tmp_path / "model"), "--num_train_epochs", "1"]
        + ["--output_dir", str(output), "--test_speakers", "04", "05"]
    )
    assert WhisperForEmotionClassification.from_pretrained(output / "model").config.temperature == 1
