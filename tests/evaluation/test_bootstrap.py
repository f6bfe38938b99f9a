"""Bootstrap over speakers: equal to a naive loop on the same draws, covers the truth, and pairs two runs."""

import json
import time
import warnings
from dataclasses import asdict

import numpy as np
import pandas
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from whisper_ser.errors import WhisperSerError
from whisper_ser.evaluation.bootstrap import speaker_draws, speaker_intervals
from whisper_ser.evaluation.comparison import ComparisonError, compare, comparison_table
from whisper_ser.evaluation.metrics import METRICS, EvaluationError
from whisper_ser.evaluation.results import ser_metrics

LABELS = ["angry", "happy", "sad"]


def by_scikit_learn(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that only the predictions have
        return {
            "wa": accuracy_score(references, predictions),
            "ua": balanced_accuracy_score(references, predictions),
            "f1": f1_score(references, predictions, average="weighted"),
            "macro_f1": f1_score(references, predictions, average="macro"),
        }


def naive_resamples(references, predictions, speakers, draws: np.ndarray) -> list[dict[str, float]]:
    """Returns the figures of each resample, by writing out the utterances of each speaker that it drew."""
    names = sorted(set(speakers))
    figures = []
    for counts in draws:
        drawn = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
        rows = [index for name in drawn for index in range(len(speakers)) if speakers[index] == name]
        figures.append(by_scikit_learn(references[rows], predictions[rows]))
    return figures


def small_case(seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns references, predictions and speakers: five speakers of different size, the last class by one alone."""
    rng = np.random.default_rng(seed)
    speakers = [f"s{index}" for index, size in enumerate((4, 9, 4, 6, 5)) for _ in range(size)]
    references = np.arange(len(speakers)) % 2
    references[:2] = 2
    predictions = np.where(rng.random(len(speakers)) < 0.6, references, rng.integers(0, 3, len(speakers)))
    order = rng.permutation(len(speakers))
    return references[order], predictions[order], [speakers[index] for index in order]


# Intervals of one run


def test_intervals_equal_a_naive_loop_over_the_same_draws():
    references, predictions, speakers = small_case()
    draws = speaker_draws(5, 100, seed=7)
    resamples = naive_resamples(references, predictions, speakers, draws)
    result = speaker_intervals(references, predictions, speakers, LABELS, resamples=100, confidence=0.9, seed=7)
    values = by_scikit_learn(references, predictions)
    for name in METRICS:
        low, high = np.percentile([figures[name] for figures in resamples], [5, 95])
        expected = {"value": values[name], "low": low, "high": high}
        assert asdict(getattr(result, name)) == pytest.approx(expected, abs=1e-12)
    assert (result.speakers, result.resamples, result.confidence, result.seed) == (5, 100, 0.9, 7)
    # Class 2 is spoken by the first speaker only: gone with it.
    assert result.lacking_a_class == pytest.approx((draws[:, 0] == 0).mean())
    assert 0.2 < result.lacking_a_class < 0.5


def test_draws_are_as_many_speakers_as_there_are_with_replacement():
    draws = speaker_draws(6, 20_000, seed=0)
    assert (draws.sum(1) == 6).all()
    # Of n draws from n speakers each is missing with probability (1 - 1/n)^n.
    assert (draws == 0).mean(0) == pytest.approx(np.full(6, (5 / 6) ** 6), abs=0.015)
    assert (speaker_draws(6, 50, seed=0) == speaker_draws(6, 50, seed=0)).all()
    assert (speaker_draws(6, 50, seed=0) != speaker_draws(6, 50, seed=1)).any()


def test_names_and_indices_give_the_same_intervals():
    references, predictions, speakers = small_case()
    names = [[LABELS[index] for index in side] for side in (references, predictions)]
    expected = speaker_intervals(references, predictions, speakers, LABELS, resamples=100)
    assert speaker_intervals(*names, pandas.Series(speakers), LABELS, resamples=100) == expected
    json.dumps(asdict(expected))


def simulated(rng: np.random.Generator, speakers: int = 40, each: int = 20) -> tuple[np.ndarray, np.ndarray, list]:
    """Returns predictions of two even classes, each speaker understood with an own probability, 0.7 on average."""
    understood = np.repeat(rng.beta(3.5, 1.5, speakers), each)
    references = np.tile([0, 1], speakers * each // 2)
    predictions = np.where(rng.random(len(references)) < understood, references, 1 - references)
    return references, predictions, list(np.repeat(np.arange(speakers), each))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    cases = [speaker_intervals(*simulated(rng), ["a", "b"], resamples=500, seed=n) for n in range(300)]
    for name in ("wa", "ua"):
        intervals = [getattr(case, name) for case in cases]
        covered = np.mean([interval.low <= 0.7 <= interval.high for interval in intervals])
        assert 0.90 <= covered <= 0.98, name


def test_ten_thousand_resamples_take_well_under_a_second():
    rng = np.random.default_rng(0)
    references, predictions = rng.integers(0, 8, (2, 1440))
    speakers = list(np.arange(1440) % 24)
    begin = time.process_time()
    speaker_intervals(references, predictions, speakers, [str(label) for label in range(8)])
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        (["a", "b"], "3 utterances but 2 speakers"),
        (["a", "b", None], "1 utterances have no speaker"),
        (["a", "", float("nan")], "2 utterances have no speaker"),
        (["a", "a", "a"], r"Only one speaker \(a\)"),
    ],
)
def test_speakers_that_allow_no_interval_are_refused(speakers, message):
    with pytest.raises(EvaluationError, match=message):
        speaker_intervals([0, 1, 0], [0, 1, 1], speakers, LABELS)


# Two runs


def table(references, predictions, speakers, folder: str = "corpus", part: str = "test") -> pandas.DataFrame:
    """Returns predictions as `run_train.py` writes them."""
    rows = pandas.DataFrame(
        {
            "part": part,
            "path": [f"{folder}/{speaker}/{index:03d}.wav" for index, speaker in enumerate(speakers)],
            "speaker": [str(speaker) for speaker in speakers],
            "emotion": [LABELS[index] for index in references],
            "predicted": [LABELS[index] for index in predictions],
        }
    )
    return rows.assign(**{f"probability_{label}": np.float32(1 / 3) for label in LABELS})


def two_runs(better: float, speakers: int = 12, each: int = 15, seed: int = 0) -> tuple[pandas.DataFrame, ...]:
    """Returns a run that is right 60 % of the time and one that also gets the share `better` of its errors right."""
    rng = np.random.default_rng(seed)
    names = [f"s{index:02d}" for index in np.repeat(np.arange(speakers), each)]
    references = rng.integers(0, 3, len(names))
    first = np.where(rng.random(len(names)) < 0.6, references, (references + 1) % 3)
    second = np.where(rng.random(len(names)) < better, references, first)
    return table(references, first, names), table(references, second, names)


def test_identical_runs_make_no_claim():
    run, _ = two_runs(0)
    comparison = compare(run, run.sample(frac=1, random_state=0))
    for figures in comparison.metrics.values():
        assert figures.baseline == figures.candidate
        assert (figures.difference, figures.low, figures.high) == (0, 0, 0)
        assert (figures.probability, figures.p, figures.better) == (0, 1, None)


def test_a_clearly_better_run_is_found_in_both_directions():
    worse, better = two_runs(0.5)
    forth, back = compare(worse, better).metrics, compare(better, worse).metrics
    for name in METRICS:
        assert forth[name].better == "candidate" and back[name].better == "baseline"
        assert forth[name].probability > 0.999 and back[name].probability > 0.999
        assert 0 < forth[name].p < 0.001
        assert 0 < forth[name].low < forth[name].difference < forth[name].high
        assert back[name].difference == pytest.approx(-forth[name].difference)


@pytest.mark.parametrize(("speakers", "better"), [(2, None), (5, None), (6, "candidate")])
def test_few_speakers_that_agree_are_no_proof(speakers, better):
    """Five coins fall alike in one throw of 16, six in one of 32: only the latter is rarer than 5 %."""
    figures = compare(*two_runs(0.9, speakers=speakers)).metrics["wa"]
    assert figures.low > 0 and figures.probability == 1
    assert figures.better == better and figures.p == 2 / 2**speakers


def test_a_comparison_equals_a_naive_loop_over_the_same_draws():
    first, second = two_runs(0.2, speakers=6, each=8, seed=2)
    second.loc[second.index % 6 == 0, "predicted"] = "sad"
    comparison = compare(first, second, resamples=100, confidence=0.8, seed=3)
    draws = speaker_draws(6, 100, seed=3)
    resamples = [
        naive_resamples(run["emotion"].to_numpy(), run["predicted"].to_numpy(), list(run["speaker"]), draws)
        for run in (first, second)
    ]
    whole = [by_scikit_learn(run["emotion"], run["predicted"]) for run in (first, second)]
    for name, found in comparison.metrics.items():
        sampled = np.array([other[name] - one[name] for one, other in zip(*resamples, strict=True)]).round(12)
        low, high = np.percentile(sampled, [10, 90])
        observed = whole[1][name] - whole[0][name]
        assert observed > 0 and 0 < (sampled > 0).mean() < 1  # neither certain nor equal
        assert asdict(found) == pytest.approx(
            {
                "baseline": whole[0][name],
                "candidate": whole[1][name],
                "difference": observed,
                "low": low,
                "high": high,
                "probability": (sampled > 0).mean(),
                "p": min(1, 2 * ((sampled <= 0).sum() + 1) / 101),
                "better": None,
            },
            abs=1e-9,
        )
    assert comparison.utterances == 48 and comparison.speakers == 6
    json.dumps(asdict(comparison))


def test_noise_is_rarely_taken_for_a_difference():
    """Two runs that are right equally often, by chance on different utterances."""
    claims = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        names = np.repeat([f"s{index}" for index in range(20)], 10)
        references = rng.integers(0, 3, len(names))
        runs = [np.where(rng.random(len(names)) < 0.7, references, (references + 1) % 3) for _ in range(2)]
        figures = compare(*(table(references, run, names) for run in runs), resamples=400).metrics["wa"]
        claims.append(figures.better is not None)
    assert np.mean(claims) <= 0.12


def test_pairing_sees_what_two_intervals_cannot():
    """Speakers differ much, the runs little but always the same way."""
    rng = np.random.default_rng(0)
    names = np.repeat([f"s{index:02d}" for index in range(20)], 20)
    references = rng.integers(0, 3, len(names))
    understood = np.repeat(rng.uniform(0.3, 0.9, 20), 20)
    first = np.where(rng.random(len(names)) < understood, references, (references + 1) % 3)
    second = np.where(rng.random(len(names)) < 0.1, references, first)
    apart = [speaker_intervals(references, run, names, LABELS).wa for run in (first, second)]
    assert apart[0].high > apart[1].low
    assert compare(table(references, first, names), table(references, second, names)).metrics["wa"].low > 0


def test_only_the_test_part_is_compared():
    worse, better = two_runs(0.5)
    comparison = compare(pandas.concat([worse, better.assign(part="validation")]), worse)
    assert comparison.utterances == len(worse)
    assert comparison.metrics["wa"].difference == 0


def test_a_corpus_that_was_moved_is_the_same_corpus():
    worse, better = two_runs(0.5)
    moved = better.assign(path=["/data/of others/" + path for path in better["path"]])
    assert compare(worse, moved) == compare(worse, better)


def wrong_tables() -> list:
    run, _ = two_runs(0, speakers=3, each=2)
    renamed = run.assign(path=[*run["path"][:-1], "corpus/s02/999.wav"])
    other = run.assign(emotion=["happy" if emotion != "happy" else "sad" for emotion in run["emotion"]])
    speaker = run.assign(speaker=["other", *run["speaker"][1:]])
    return [
        (run.drop(columns=["speaker"]), "candidate lacks the columns speaker"),
        (run.assign(part="validation"), "candidate has no rows with part 'test'"),
        (run.iloc[:4], r"2 only in the baseline \(s02/004.wav, s02/005.wav\)"),
        (renamed, r"1 only in the baseline \(s02/005.wav\); 1 only in the candidate \(s02/999.wav\)"),
        (pandas.concat([run, run.iloc[:1]]), r"candidate holds 1 utterances more than once \(s00/000.wav\)"),
        (other, "disagree on the emotion of 6 utterances: s00/000.wav is '[a-z]+' in the baseline"),
        (speaker, "disagree on the speaker of 1 utterances: s00/000.wav is 's00' in the baseline, 'other' in the"),
        (run.assign(probability_bored=0.0), "only one of them has bored"),
    ]


@pytest.mark.parametrize(("candidate", "message"), wrong_tables())
def test_tables_that_cannot_be_compared_are_refused(candidate, message):
    run, _ = two_runs(0, speakers=3, each=2)
    with pytest.raises(ComparisonError, match=message) as error:
        compare(run, candidate)
    assert isinstance(error.value, WhisperSerError)


def test_the_table_shows_every_metric_in_percent():
    references = [0] * 6 + [1] * 6
    runs = [table(references, predictions, list("abcdefabcdef")) for predictions in ([0] * 12, references)]
    lines = comparison_table(compare(*runs, resamples=99), ("mean", "QKV")).splitlines()
    assert lines[0].split() == ["mean", "QKV", "difference", "95%", "interval", "P(real)", "p", "better"]
    assert [line.strip().split("  ")[0] for line in lines[1:5]] == ["WA", "UA", "F1 (weighted)", "F1 (macro)"]
    assert lines[1].split() == ["WA", "50.0", "100.0", "+50.0", "+50.0", "to", "+50.0", "1.000", "0.0312", "QKV"]
    assert lines[-1] == "12 test utterances pooled, 6 speakers drawn 99 times (seed 0), the same for both runs."


def test_figures_of_a_comparison_are_those_of_the_run():
    first, second = two_runs(0.1)
    metrics = compare(first, second).metrics
    for run, name in ((first, "baseline"), (second, "candidate")):
        own = ser_metrics().compute(references=run["emotion"], predictions=run["predicted"], labels=LABELS)
        assert {metric: getattr(metrics[metric], name) for metric in METRICS} == {
            metric: own[metric] for metric in METRICS
        }
