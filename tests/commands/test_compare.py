"""`whisper-ser compare` reads two runs, pairs them rightly or refuses, and says what `compare` says."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas
import pytest
from example_results import LABELS, fold, predictions, run_result
from test_bootstrap import two_runs

from whisper_ser.cli import main
from whisper_ser.evaluation.comparison import ComparisonError, compare, comparison_table
from whisper_ser.evaluation.results import Protocol, score, write_result
from whisper_ser.io import sealed
from whisper_ser.report.protocol import TEST_BEST


def write_run(folder: Path, table: pandas.DataFrame) -> Path:
    folder.mkdir(parents=True)
    table.to_parquet(folder / "predictions.parquet", index=False)
    return folder


def refused(*argv: str | Path, capsys) -> str:
    assert main(["compare", *map(str, argv)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def with_seeds(tables: list[pandas.DataFrame], seeds: list[int]) -> pandas.DataFrame:
    return pandas.concat([table.assign(seed=seed) for table, seed in zip(tables, seeds, strict=True)])


def test_two_run_folders_are_compared_and_named(tmp_path, capsys):
    worse, better = two_runs(0.5)
    runs = [str(write_run(tmp_path / name, table)) for name, table in (("mean", worse), ("qkv", better))]
    assert main(["compare", *runs, "--resamples", "500", "--seed", "3", "--confidence", "0.9"]) == 0
    expected = compare(worse, better, resamples=500, seed=3, confidence=0.9)
    assert capsys.readouterr().out == comparison_table(expected, ("mean", "qkv")) + "\n"
    assert main(["compare", *runs, "--resamples", "500", "--format", "json"]) == 0
    nothing = {"baseline": [], "candidate": []}
    assert json.loads(capsys.readouterr().out) == {
        **asdict(compare(worse, better, resamples=500)),
        "warnings": nothing,
    }


def test_what_every_table_of_a_run_has_to_say_is_said_of_the_comparison(tmp_path, capsys):
    runs = [write_run(tmp_path / name, table) for name, table in zip(("mean", "qkv"), two_runs(0.5), strict=True)]
    leak = "Leak allowed: speakers (train/test) in 1 of 2 folds"
    test = predictions([0, 1], [0, 1])
    result = run_result([fold(score(test, LABELS))], test, protocol=Protocol("split", "test_best"), warnings=[leak])
    write_result(runs[1], result, pandas.read_parquet(runs[1] / "predictions.parquet"))
    assert main(["compare", *map(str, runs), "--resamples", "100"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [f"qkv: {TEST_BEST}", f"qkv: {leak}"]
    assert main(["compare", *map(str, runs), "--resamples", "100", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == {"baseline": [], "candidate": [TEST_BEST, leak]}


def test_runs_of_the_first_version_can_be_compared(tmp_path, capsys):
    runs = [write_run(tmp_path / name, table) for name, table in zip(("mean", "qkv"), two_runs(0.5), strict=True)]
    (runs[1] / "metrics.json").write_text(json.dumps(sealed({"labels": ["a"], "test": {"wa": 0.5}, "warnings": []})))
    assert main(["compare", *map(str, runs), "--resamples", "100"]) == 0
    assert "qkv: its warnings are unknown: " in capsys.readouterr().out.splitlines()[-1]


def test_tables_may_be_given_and_csv_keeps_text_as_it_is(tmp_path, capsys):
    runs = [
        table.assign(speaker=table["speaker"].str.removeprefix("s"), emotion=table["emotion"].replace("sad", "NA"))
        for table in two_runs(0.5)
    ]
    baseline = write_run(tmp_path / "run", runs[0]) / "predictions.parquet"
    candidate = tmp_path / "other.csv"
    runs[1].to_csv(candidate, index=False)
    assert set(runs[0]["speaker"]) >= {"00", "01"}
    assert main(["compare", str(baseline), str(candidate), "--resamples", "200", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("warnings") == {"baseline": [], "candidate": []} and found == asdict(
        compare(*runs, resamples=200)
    )


def test_runs_whose_folders_have_one_name_are_told_apart(tmp_path, capsys):
    worse, better = two_runs(0.5)
    runs = [str(write_run(tmp_path / name / "run", table)) for name, table in (("1", worse), ("2", better))]
    assert main(["compare", *runs, "--resamples", "100"]) == 0
    text = capsys.readouterr().out
    assert all(run in text for run in runs)


def test_what_is_no_run_is_told_what_to_give(tmp_path, capsys):
    run = write_run(tmp_path / "run", two_runs(0)[0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "broken.parquet").write_text("broken")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for source, message in (
        ("empty", "empty has no predictions.parquet: give the folder of a finished run"),
        ("absent", "There is no "),
        ("metrics.json", "is not a table of predictions; expected .parquet or .csv"),
        ("broken.parquet", "cannot be read as a parquet table"),
        ("other.csv", "The candidate lacks the columns part, path, speaker, emotion, predicted"),
    ):
        assert message in refused(run, tmp_path / source, capsys=capsys)
    assert "confidence is 95; expected a share" in refused(run, run, "--confidence", "95", capsys=capsys)
    assert "resamples is 0; expected at least 1" in refused(run, run, "--resamples", "0", capsys=capsys)


def test_several_seeds_are_paired_seed_by_seed():
    """As if each seed's utterances were utterances of their own, of the same speakers."""
    pairs = [two_runs(share, seed=seed) for share, seed in ((0.3, 1), (0.1, 1), (0.2, 1))]
    first, second = (with_seeds([pair[n] for pair in pairs], [7, 11, 13]) for n in (0, 1))
    found = compare(first, second.sample(frac=1, random_state=0), resamples=300)
    apart = [
        run.assign(path=[f"{seed}/{path}" for seed, path in zip(run["seed"], run["path"], strict=True)])
        for run in (first.reset_index(), second.reset_index())
    ]
    expected = compare(*(run.drop(columns="seed") for run in apart), resamples=300)
    assert found.metrics == expected.metrics
    assert (found.utterances, found.seeds, found.speakers) == (180, 3, 12)
    assert "180 test utterances of 3 trainings each pooled, 12 speakers" in comparison_table(found)


def test_an_utterance_whose_prediction_of_one_seed_is_missing_is_found():
    run, _ = two_runs(0, speakers=3, each=2)
    both = with_seeds([run, run], [0, 1])
    with pytest.raises(ComparisonError, match=r"1 only in the baseline \(s02/005.wav \(seed 1\)\)"):
        compare(both, both.iloc[:-1])


@pytest.mark.parametrize("seeds", [[0], [0, 2], [0, 1, 2]])
def test_different_seeds_are_refused(seeds):
    run, _ = two_runs(0, speakers=3, each=2)
    said = ", ".join(map(str, seeds))
    with pytest.raises(ComparisonError, match=rf"different seeds \(baseline: 0, 1; candidate: {said}\)"):
        compare(with_seeds([run, run], [0, 1]), with_seeds([run] * len(seeds), seeds))


def test_several_seeds_cannot_be_compared_with_a_table_that_names_none():
    run, _ = two_runs(0, speakers=3, each=2)
    with pytest.raises(ComparisonError, match="candidate: none named"):
        compare(with_seeds([run, run], [0, 1]), run)
    with pytest.raises(ComparisonError, match="more than once .* column seed"):
        compare(run, pandas.concat([run, run]))


def test_one_training_each_is_paired_by_utterance_whatever_its_seed():
    worse, better = two_runs(0.5)
    found = compare(worse.assign(seed=1), better.assign(seed=2), resamples=100)
    assert found == compare(worse, better.assign(seed=2), resamples=100) == compare(worse, better, resamples=100)


def test_other_folds_are_said_and_other_names_of_folds_are_not():
    worse, better = two_runs(0.5)
    by_speaker = worse.assign(fold=worse["speaker"])
    renamed = better.assign(fold=[f"fold {speaker}" for speaker in better["speaker"]])
    halves = better.assign(fold=(better["speaker"] < "s06").astype(int))
    assert compare(by_speaker, renamed, resamples=100).same_folds is True
    assert compare(worse, better, resamples=100).same_folds is None
    for pair in ((by_speaker, halves), (halves, by_speaker)):
        comparison = compare(*pair, resamples=100)
        assert comparison.same_folds is False
        assert "have different folds" in comparison_table(comparison)
    assert "different folds" not in comparison_table(compare(by_speaker, renamed, resamples=100))


@pytest.mark.parametrize(("speakers", "warned"), [(5, True), (6, False)])
def test_too_few_speakers_for_any_claim_are_said(speakers, warned):
    table = comparison_table(compare(*two_runs(0.9, speakers=speakers), resamples=100))
    assert ("Too few speakers for a claim at 95%, whatever P(real) is: 6 are needed." in table) == warned
