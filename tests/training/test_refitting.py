"""--refit: the temperature of a training without the validation speakers, the weights of one with them."""

import json
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from modeling_whisper_ser import WhisperForEmotionClassification
from whisper_ser.commands import train as run_train
from whisper_ser.errors import RecipeError
from whisper_ser.evaluation.results import read_result

TEST, VALIDATION = ["--test_speakers", "00"], ["--validation_speakers", "05"]


def flags(corpus: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    folders = ["--output_dir", str(output), "--feature_dir", str(output.parent / "features")]
    return ["--data_dir", str(corpus), "--encoder", str(checkpoint), *folders, "--num_train_epochs", "2", *TEST, *more]


@pytest.fixture(scope="module")
def runs(corpus, small_checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("refitting")
    for name, more in {"held_out": VALIDATION, "everyone": [], "refitted": [*VALIDATION, "--refit"]}.items():
        run_train.main(flags(corpus, small_checkpoint, folder / name, *more))
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def temperature(run: Path) -> float:
    return WhisperForEmotionClassification.from_pretrained(run / "model").config.temperature


def test_weights_are_of_all_speakers_and_the_temperature_of_those_held_out(runs):
    refitted, everyone = weights(runs / "refitted"), weights(runs / "everyone")
    assert all(torch.equal(tensor, refitted[key]) for key, tensor in everyone.items())
    assert temperature(runs / "refitted") == temperature(runs / "held_out") != 1
    assert temperature(runs / "everyone") == 1


def test_each_part_is_predicted_by_the_model_that_did_not_learn_it(runs):
    tables = {
        name: pandas.read_parquet(runs / name / "predictions.parquet") for name in ("refitted", "held_out", "everyone")
    }
    refitted, held_out = (tables[name].set_index(["part", "path"]) for name in ("refitted", "held_out"))
    assert refitted.loc["validation"].equals(held_out.loc["validation"])
    everyone = tables["everyone"].set_index(["part", "path"])
    said = [name for name in everyone.columns if name != "predicted"]
    assert (refitted.loc["test", "predicted"] == everyone.loc["test", "predicted"]).all()
    assert not refitted.loc["test", said].equals(everyone.loc["test", said])  # other temperatures
    metrics = json.loads((runs / "refitted" / "metrics.json").read_text())
    assert metrics["protocol"]["refit"] and metrics["folds"][0]["validation"]["utterances"] == 6
    cards = {name: (runs / name / "model" / "README.md").read_text() for name in ("refitted", "held_out")}
    assert [name for name, card in cards.items() if "before it was trained on them as well" in card] == ["refitted"]
    assert "trained anew on validation speakers too" in (runs / "refitted/model/README.md").read_text()


def test_interrupted_in_either_training_it_goes_on(runs, corpus, small_checkpoint, tmp_path, monkeypatch):
    saved, output = Trainer._save_checkpoint, tmp_path / "run"
    more = [*VALIDATION, "--refit"]
    for checkpoints in (1, 2):  # that end the first epoch of the first training, its second, the first of the second
        left = [checkpoints]

        def interrupted(trainer, *arguments, left=left, **options):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            saved(trainer, *arguments, **options)

        monkeypatch.setattr(Trainer, "_save_checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_train.main(flags(corpus, small_checkpoint, output, *more))
    assert list(output.glob("checkpoints/checkpoint-*")), "the second training was not interrupted"
    monkeypatch.undo()
    run_train.main(flags(corpus, small_checkpoint, output, *more))
    resumed = weights(output)
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in weights(runs / "refitted").items())
    assert temperature(output) == temperature(runs / "refitted")
    assert not (output / "checkpoints").exists() and not (output / "calibration").exists()


def test_folds_are_refitted_too(corpus, small_checkpoint, tmp_path):
    own = ["--protocol", "loso", "--num_train_epochs", "1", "--jobs", "1"]
    common = ["--data_dir", str(corpus), "--encoder", str(small_checkpoint), *own]
    run_train.main([*common, "--output_dir", str(tmp_path / "plain")])
    run_train.main([*common, "--output_dir", str(tmp_path / "refitted"), "--refit"])
    plain, refitted = (read_result(tmp_path / name / "metrics.json") for name in ("plain", "refitted"))
    assert refitted.fitted == 6 and not plain.fitted
    assert all(len(fold.validation_speakers) == 1 for fold in refitted.folds)


def test_what_leaves_nothing_to_fit_on_is_refused(corpus, small_checkpoint, tmp_path):
    for more, words in (
        (["--refit", "--selection", "validation"], "leave selection at last"),
        (["--refit", "--validation_fraction", "0"], "raise validation_fraction"),
        (["--refit", "--resume_from_checkpoint", "checkpoint-3"], "leave resume_from_checkpoint out"),
    ):
        with pytest.raises(RecipeError, match=words):
            run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", *more))
