"""run_train.py --protocol: every fold trained and tested, nothing done twice, nothing leaked unseen."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import save_small_model, write_corpus
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from whisper_ser.commands import train as run_train
from whisper_ser.data.leakage import LeakError
from whisper_ser.errors import CheckpointError, RecipeError
from whisper_ser.evaluation.results import RunResult, read_result
from whisper_ser.training import runs
from whisper_ser.training.models import build_model
from whisper_ser.training.trainer import BestEpoch


def flags(corpus: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    own = ["--data_dir", str(corpus), "--encoder", str(checkpoint), "--output_dir", str(output), "--jobs", "1"]
    return [*own, "--protocol", "loso", "--num_train_epochs", "2", "--layers", "2", *more]


@pytest.fixture(scope="module")
def run(corpus, small_checkpoint, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("cross-validation") / "run"
    run_train.main(flags(corpus, small_checkpoint, output))
    return output


def result_of(run: Path) -> RunResult:
    return read_result(run / "metrics.json")


def test_every_utterance_tests_once_where_its_speaker_did_not_train(run, corpus):
    predictions = pandas.read_parquet(run / "predictions.parquet")
    assert len(predictions) == 36 and predictions["path"].is_unique and set(predictions["part"]) == {"test"}
    assert (predictions["fold"] == predictions["speaker"]).all()
    for fold in result_of(run).folds:
        assert fold.test_speakers == [fold.name] and fold.name not in fold.train_speakers
        assert len(fold.train_speakers) == 5


def test_the_figures_are_scikit_learns_over_the_folds(run):
    predictions, result = pandas.read_parquet(run / "predictions.parquet"), result_of(run)
    truth, said = predictions["emotion"], predictions["predicted"]
    by_fold = [
        (
            accuracy_score(rows["emotion"], rows["predicted"]),
            balanced_accuracy_score(rows["emotion"], rows["predicted"]),
            f1_score(rows["emotion"], rows["predicted"], average="weighted"),
        )
        for _, rows in predictions.groupby("fold")
    ]
    for name, values in zip(("wa", "ua", "f1"), np.array(by_fold).T, strict=True):
        assert getattr(result.test, name) == pytest.approx(values.mean())
        assert getattr(result.deviations.folds, name) == pytest.approx(values.std())
    assert result.pooled.wa == pytest.approx(accuracy_score(truth, said))
    assert result.pooled.ua == pytest.approx(balanced_accuracy_score(truth, said))
    assert result.intervals.ua.low <= result.intervals.ua.value <= result.intervals.ua.high


def test_a_fold_alone_gives_what_it_gives_among_the_others(run, corpus, small_checkpoint, tmp_path):
    alone = ["--protocol", "split", "--test_speakers", "02"]
    run_train.main([*flags(corpus, small_checkpoint, tmp_path / "alone"), *alone])
    ours = pandas.read_parquet(tmp_path / "alone" / "predictions.parquet").set_index("path")["probability_calm"]
    theirs = pandas.read_parquet(run / "predictions.parquet").set_index("path")["probability_calm"]
    assert len(ours) == 6 and np.allclose(ours, theirs[ours.index], atol=1e-5)


def test_an_interrupted_cross_validation_goes_on_and_ends_alike(run, corpus, small_checkpoint, tmp_path, monkeypatch):
    output, done = tmp_path / "run", []
    write_fold = runs.write_fold

    def die_in_the_fourth(folder, *arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(folder)
        return write_fold(folder, *arguments)

    monkeypatch.setattr(runs, "write_fold", die_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run_train.main(flags(corpus, small_checkpoint, output))
    assert not (output / "metrics.json").exists()
    with pytest.raises(CheckpointError, match=r"layers was \[2\], is now \[1\]"):
        run_train.main(flags(corpus, small_checkpoint, output, "--layers", "1"))
    again = []
    monkeypatch.setattr(runs, "write_fold", lambda *a: again.append(a[0]) or write_fold(*a))
    run_train.main(flags(corpus, small_checkpoint, output))
    assert len(again) == 3 and not {*again} & {*done}
    ours, theirs = (pandas.read_parquet(folder / "predictions.parquet") for folder in (output, run))
    pandas.testing.assert_frame_equal(ours, theirs, rtol=1e-4)
    assert result_of(output).test.ua == result_of(run).test.ua


def test_a_complete_run_keeps_its_folds_when_it_is_repeated(run, corpus, small_checkpoint, tmp_path, monkeypatch):
    output = shutil.copytree(run, tmp_path / "run")
    trained = []
    monkeypatch.setattr(runs, "train_with_refit", lambda *a, **o: trained.append(a) or pytest.fail("trained again"))
    run_train.main(flags(corpus, small_checkpoint, output))
    assert not trained and result_of(output).folds == result_of(run).folds


def test_a_complete_run_of_other_folds_is_not_mixed_with_these(run, corpus, small_checkpoint, tmp_path):
    output = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        run_train.main(flags(corpus, small_checkpoint, output, "--protocol", "speaker_groups", "--num_groups", "2"))
    assert result_of(output) == result_of(run)


def test_validation_selection_holds_speakers_of_the_training_part_out(corpus, small_checkpoint, tmp_path):
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", "--selection", "validation"))
    for fold in result_of(tmp_path / "run").folds:
        parts = [set(names) for names in (fold.train_speakers, fold.validation_speakers, fold.test_speakers)]
        assert [len(part) for part in parts] == [4, 1, 1] and not set.intersection(*parts)
    assert not list((tmp_path / "run" / "folds").glob("*/checkpoints"))


def test_the_same_recording_under_another_name_is_a_leak_until_allowed(small_checkpoint, tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus", speakers=3)
    shutil.copy(corpus / "00_calm_0.wav", corpus / "02_calm_0.wav")
    with pytest.raises(LeakError, match="02_calm_0.wav"):
        run_train.main(flags(corpus, small_checkpoint, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", "--allow_leaks", "audio"))
    assert "Leak allowed: audio" in capsys.readouterr().out
    result = result_of(tmp_path / "run")
    assert result.audit.leaks and "Leak allowed: audio" in result.warnings[0]


def test_the_summary_names_every_fold_and_the_interval(corpus, small_checkpoint, tmp_path, capsys):
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", "--protocol", "speaker_groups"))
    lines = capsys.readouterr().out.splitlines()
    starts = [line.split("  ")[0] for line in lines]
    for start in ("fold", "1", "5", "mean", "std", "pooled", "95% over speakers"):
        assert start in starts


def test_named_speakers_and_a_protocol_contradict_each_other(corpus, small_checkpoint, tmp_path):
    with pytest.raises(RecipeError, match="--protocol loso decides"):
        run_train.main(flags(corpus, small_checkpoint, tmp_path, "--test_speakers", "01"))


def test_the_best_epoch_is_given_back():
    model = torch.nn.Linear(1, 1)
    best = BestEpoch("validation_ua")
    for value in (0.4, 0.9, 0.9, 0.1):
        torch.nn.init.constant_(model.weight, value if value < 0.9 or not best.weights else value + best.highest)
        best.on_evaluate(None, None, None, model=model, metrics={"eval_validation_ua": value})
        best.on_evaluate(None, None, None, model=model, metrics={"eval_test_ua": 1.0})
    best.restore(model)
    assert best.highest == 0.9 and model.weight.item() == pytest.approx(0.9 + 0.4), "the first of equals"


def test_several_seeds_are_several_trainings_of_the_same_folds(run, corpus, small_checkpoint, tmp_path):
    output = tmp_path / "run"
    run_train.main(flags(corpus, small_checkpoint, output, "--seeds", "42", "7"))
    predictions, result = pandas.read_parquet(output / "predictions.parquet"), result_of(output)
    first = predictions[predictions["seed"] == 42].reset_index(drop=True)
    # 42 is the usual seed.
    pandas.testing.assert_frame_equal(first, pandas.read_parquet(run / "predictions.parquet"), rtol=1e-4)
    assert len(predictions) == 72 and not np.allclose(
        first["probability_calm"], predictions[predictions["seed"] == 7]["probability_calm"]
    )
    means = [
        np.mean([balanced_accuracy_score(f["emotion"], f["predicted"]) for _, f in of_seed.groupby("fold")])
        for _, of_seed in predictions.groupby("seed")
    ]
    assert (result.test.ua, result.deviations.seeds.ua) == pytest.approx((np.mean(means), np.std(means)))
    assert result.protocol.seeds == [42, 7] and len(result.folds) == 12


def test_one_model_has_one_seed(corpus, small_checkpoint, tmp_path):
    with pytest.raises(RecipeError, match="one model has one seed"):
        run_train.main(flags(corpus, small_checkpoint, tmp_path, "--protocol", "split", "--seeds", "1", "2"))


def test_the_epoch_that_flatters_is_chosen_on_the_test_part_and_named(corpus, small_checkpoint, tmp_path):
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", "--selection", "test_best"))
    assert result_of(tmp_path / "run").protocol.selection == "test_best"
    for folder in (tmp_path / "run" / "folds").iterdir():
        if folder.is_dir():
            (fold,) = result_of(folder).folds
            assert fold.test.wa == max(epoch.test["wa"] for epoch in fold.history)


def test_every_fold_trains_the_saved_model_on(run, corpus, small_checkpoint, tmp_path):
    saved = save_small_model(small_checkpoint, tmp_path / "saved")
    own = ["--data_dir", str(corpus), "--model_name_or_path", str(saved), "--output_dir", str(tmp_path / "run")]
    own += ["--protocol", "speaker_groups", "--num_groups", "2", "--num_train_epochs", "1", "--jobs", "1"]
    built = []

    def spy(arguments, labels):
        built.append(build_model(arguments, labels))
        return built[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "build_model", spy)
        run_train.main(own)
    start = load_file(saved / "model.safetensors")
    assert len(built) == 2
    for model, _ in built:
        trained = model.state_dict()
        # One epoch away from the saved projector and as standardised as it; new weights would be anywhere.
        moved = (trained["whisper_ser.projector.weight"] - start["whisper_ser.projector.weight"]).abs().max()
        assert 0 < moved < 0.02
        for name in ("mean", "deviation"):
            key = f"whisper_ser.standardisation.{name}"
            assert torch.equal(trained[key], start[key])


def test_every_fold_trains_the_encoder_layers_that_are_asked_for(corpus, small_checkpoint, tmp_path, monkeypatch):
    kept, make_result = [], runs.run_result

    def spy(training, *more):
        kept.append(training.model.state_dict())
        return make_result(training, *more)

    monkeypatch.setattr(runs, "run_result", spy)
    more = ["--protocol", "speaker_groups", "--num_groups", "2", "--unfreeze_last_n", "1", "--num_train_epochs", "1"]
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", *more))
    stock = load_file(small_checkpoint / "model.safetensors")
    assert len(kept) == 2
    for trained in kept:
        same = [
            torch.equal(trained[f"whisper_ser.encoder.layers.{n}.fc1.weight"], stock[f"encoder.layers.{n}.fc1.weight"])
            for n in (0, 1)
        ]
        assert same == [True, False]


@pytest.mark.parametrize("sweep", [False, True])
def test_what_auto_chose_is_recorded(corpus, small_checkpoint, tmp_path, sweep):
    own = [
        "--protocol",
        "auto",
        "--num_train_epochs",
        "1",
        *(["--grid", '{"pooling_type": ["mean"]}'] if sweep else []),
    ]
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", *own))
    folder = tmp_path / "run" / ("variants/mean" if sweep else "")
    assert result_of(folder).protocol.name == "loso"
    if not sweep:
        assert json.loads((tmp_path / "run" / "recipe.json").read_text())["protocol"] == "auto"
