"""Results: summaries of folds and seeds by hand, and the file `metrics.json`."""

import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
from example_results import LABELS, fold, predictions, run_result, scores

from whisper_ser.errors import DamagedFileError
from whisper_ser.evaluation.results import (
    METRICS_FILE,
    Epoch,
    ResultError,
    deviations_of,
    join_folds,
    mean_scores,
    read_predictions,
    read_result,
    score,
    statistics_of,
    write_result,
)
from whisper_ser.io import sealed


def test_folds_are_summarised_as_the_paper_does():
    folds = [fold(scores([0, 0, 1], [0, 0, 0])), fold(scores([1], [1]), "B")]
    mean, over = mean_scores([one.test for one in folds]), deviations_of(folds).folds
    # WA 2/3 and 1, UA 1/2 and 1; the population's deviation of two values is half their distance.
    assert (mean.wa, over.wa) == pytest.approx((5 / 6, 1 / 6))
    assert (mean.ua, over.ua) == pytest.approx((3 / 4, 1 / 4))
    assert mean.utterances == 4 and mean.confusion_matrix == [[2, 0], [1, 1]]
    # Only the first fold has class "angry"; of "sad" no utterance and the only one are right.
    assert mean.recall == {"angry": 1.0, "sad": 0.5}


def test_seeds_are_summarised_by_their_means():
    right, wrong = scores([0, 1], [0, 1]), scores([0, 1], [1, 0])
    folds = [fold(right), fold(wrong, "B"), fold(right, seed=1), fold(right, "B", seed=1)]
    assert deviations_of(folds).seeds.ua == 0.25  # means 0.5 and 1
    assert deviations_of(folds[:2]).seeds is None


def test_the_calibration_error_is_given_without_the_temperature_too():
    # 4 of 4 right at 0.8; a temperature of 2 made it 0.8 from odds of 4^2.
    found = scores([0, 0, 1, 1], [0, 0, 1, 1], temperature=2.0)
    assert found.ece == pytest.approx(0.2) and found.ece_before == pytest.approx(1 - 16 / 17)
    assert scores([0], [0]).ece_before == pytest.approx(scores([0], [0]).ece)


@pytest.mark.parametrize(("speakers", "given"), [(1, False), (5, False), (6, True)])
def test_an_interval_over_fewer_than_six_speakers_is_not_given(speakers, given):
    table = predictions([0, 1] * 12, [0, 1, 1, 1] * 6, speaker=[f"s{number % speakers}" for number in range(24)])
    found = statistics_of(table, LABELS)
    assert (found["intervals"] is not None) == given
    assert (found["by_speaker"] is not None) == (speakers > 1)


def test_unknown_speakers_and_genders_have_no_statistics():
    table = predictions([0, 1] * 12, [0, 1] * 12, speaker=["", *"abcdefghijklmnopqrstuvw"])
    found = statistics_of(table, LABELS)
    assert found["intervals"] is found["by_speaker"] is found["by_gender"] is None


def small_run():
    table = predictions([0, 0, 1], [0, 1, 1], speaker=list("abc"), gender=["f", "f", "m"])
    history = [Epoch(1.0, 0.5, {"wa": 0.5, "ua": 0.5, "f1": 0.5})]
    one = fold(score(table, LABELS), "test", validation=score(table, LABELS), history=history)
    return run_result([one], table, warnings=["a leak"]), table


def test_a_result_is_read_as_it_was_written(tmp_path):
    result, table = small_run()
    write_result(tmp_path, result, table)
    assert read_result(tmp_path / METRICS_FILE) == result
    pandas.testing.assert_frame_equal(read_predictions(tmp_path), table)


def test_the_file_has_the_figures_as_fractions_at_one_place_for_every_kind(tmp_path):
    result, table = small_run()
    write_result(tmp_path / "run", result, table)
    write_result(tmp_path / "evaluation", replace(result, folds=[], training=None, audit=None), table)
    for name, seed in (("A", 0), ("B", 0)):
        one = replace(result.folds[0], name=name, seed=seed)
        write_result(tmp_path / name, replace(result, folds=[one]), table)
    write_result(tmp_path / "folds", *join_folds([tmp_path / "A", tmp_path / "B"], "loso", result.audit, []))
    for name in ("run", "evaluation", "folds"):
        content = json.loads((tmp_path / name / METRICS_FILE).read_text())
        assert content["version"] == 2 and content["unit"] == "fraction"
        assert content["test"]["wa"] == pytest.approx(2 / 3) and content["test"]["ua"] == pytest.approx(3 / 4)


def test_confusion_matrices_have_a_row_on_each_line(tmp_path):
    write_result(tmp_path, *small_run())
    text = (tmp_path / METRICS_FILE).read_text()
    assert '    "confusion_matrix": [\n      [1, 1],\n      [0, 1]\n    ]' in text


def test_joined_folds_are_their_mean_and_all_their_utterances(tmp_path):
    tables = [predictions([0, 0, 1], [0, 0, 0]), predictions([1], [1], sure=0.9)]
    for name, table, temperature in (("A", tables[0], 1.0), ("B", tables[1], 2.0)):
        test = score(table, LABELS, temperature)
        result = run_result([fold(test, name, temperature=temperature)], table, identity=name)
        write_result(tmp_path / name, result, table)
    result, rows = join_folds([tmp_path / "A", tmp_path / "B"], "loso", small_run()[0].audit, ["a leak"])
    assert (result.test.wa, result.pooled.wa) == pytest.approx((5 / 6, 3 / 4))
    assert result.is_cross_validation and result.identity is None and result.warnings == ["a leak"]
    assert (result.protocol.name, result.protocol.folds, result.protocol.seeds) == ("loso", ["A", "B"], [0])
    assert result.training.seconds == 2 * 9.5 and list(rows["fold"]) == ["A", "A", "A", "B"]
    # Each fold's own temperature is taken back: 0.9 was sharpened from odds of 9^2, a confidence of 81/82.
    assert result.pooled.ece_before == pytest.approx(np.abs([0.8 * 3 - 2, 1 - 81 / 82]).sum() / 4)


def test_a_file_that_was_changed_is_refused(tmp_path):
    write_result(tmp_path, *small_run())
    path = tmp_path / METRICS_FILE
    changed = json.loads(path.read_text())
    changed["test"]["ua"] = 1.0
    path.write_text(json.dumps(changed))
    with pytest.raises(DamagedFileError):
        read_result(path)
    del changed["sha256"]
    path.write_text(json.dumps(changed))
    with pytest.raises(DamagedFileError):
        read_result(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": ["a"], "test": {"wa": {"mean": 0.5}}}, r"version 1 of metrics.json, expected 2.*run the same"),
        ({"version": 2, "labels": ["a"]}, "is not a result"),
        ({"version": 2, "colour": "red"}, "is not a result"),
    ],
)
def test_a_file_of_another_version_or_kind_says_what_to_do(tmp_path, content, message):
    path = tmp_path / METRICS_FILE
    path.write_text(json.dumps(sealed(content)))
    with pytest.raises(ResultError, match=message) as error:
        read_result(path)
    assert "\n" not in str(error.value)
