"""run_train.py from recordings to a published-looking folder, on a small random encoder."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import ROOT, write_corpus, write_table
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from transformers import Trainer, WhisperConfig, WhisperModel

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor
from whisper_ser.commands import train as run_train
from whisper_ser.errors import CheckpointError, ProtocolError, RecipeError
from whisper_ser.evaluation.results import read_result
from whisper_ser.training import trainer as training
from whisper_ser.training.models import build_model
from whisper_ser.training.recipe import parse_arguments
from whisper_ser.training.settings import ModelArguments

FLAGS = [
    *("--layers", "2"),
    *("--num_train_epochs", "3"),
    *("--test_speakers", "04", "05"),
    *("--validation_speakers", "03"),
    *("--input_dropout", "0"),
    *("--pooling_dropout", "0"),
]


def flags(corpus: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    folders = ["--output_dir", str(output), "--feature_dir", str(output.parent / "features")]
    return ["--data_dir", str(corpus), "--encoder", str(checkpoint), *folders, *FLAGS, *more]


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "run_train.py"), *arguments]


@pytest.fixture(scope="module")
def run(corpus, small_checkpoint, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    run_train.main(flags(corpus, small_checkpoint, output))
    return output


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def encoder_weights(run: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in weights(run).items() if ".encoder." in key}


def test_a_run_leaves_model_metrics_predictions_and_figure(run):
    assert {path.name for path in run.iterdir()} == {
        "model",
        "metrics.json",
        "predictions.parquet",
        "confusion_matrix.png",
        "coverage.png",
        "recipe.json",
    }
    files = [path for path in (run / "model").iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".png", ".py", ".safetensors"}


def test_the_metrics_are_scikit_learns_on_the_predictions(run):
    result = read_result(run / "metrics.json")
    predictions = pandas.read_parquet(run / "predictions.parquet")
    for part, speakers in (("test", {"04", "05"}), ("validation", {"03"})):
        found = getattr(result, part)
        rows = predictions[predictions["part"] == part]
        assert set(rows["speaker"]) == speakers
        assert found.utterances == len(rows)
        assert found.wa == pytest.approx(accuracy_score(rows["emotion"], rows["predicted"]))
        assert found.ua == pytest.approx(balanced_accuracy_score(rows["emotion"], rows["predicted"]))
        assert found.f1 == pytest.approx(f1_score(rows["emotion"], rows["predicted"], average="weighted"))
        assert (rows[["probability_calm", "probability_excited"]].sum(axis=1) - 1).abs().max() < 1e-5
    assert result.folds[0].train_speakers == ["00", "01", "02"]


def test_the_saved_model_gives_the_predictions(run):
    from transformers import pipeline

    from whisper_ser.audio.decoding import read_audio

    classifier = pipeline("audio-classification", model=str(run / "model"))
    for row in pandas.read_parquet(run / "predictions.parquet").itertuples():
        answer = {a["label"]: a["score"] for a in classifier(read_audio(row.path))}
        # Stored states are in half precision.
        assert answer["calm"] == pytest.approx(row.probability_calm, abs=2e-3)


def test_it_learns_what_tells_the_corpus_apart(run):
    assert json.loads((run / "metrics.json").read_text())["test"]["ua"] >= 0.9


def test_the_encoder_is_the_checkpoints_bit_for_bit(run, small_whisper):
    stock = small_whisper.encoder.state_dict()
    ours = encoder_weights(run)
    assert len(ours) == 5 + 2 * 15
    assert all(torch.equal(tensor, stock[key.split(".encoder.")[1]]) for key, tensor in ours.items())


def test_statistics_come_from_the_training_speakers_alone(corpus, small_checkpoint, tmp_path):
    other = tmp_path / "corpus"
    shutil.copytree(corpus, other)
    for file in [*other.glob("03_*"), *other.glob("04_*"), *other.glob("05_*")]:
        shutil.copy(other / "00_calm_0.wav", file)
    more = ("--pooling_type", "statistics", "--allow_leaks", "audio")
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "usual", *more))
    run_train.main(flags(other, small_checkpoint, tmp_path / "run", *more))
    for name in ("standardisation.mean", "standardisation.deviation", "pooling.mean", "pooling.deviation"):
        found, usual = (weights(tmp_path / folder)[f"whisper_ser.{name}"] for folder in ("run", "usual"))
        assert torch.equal(found, usual) and len(found.flatten().unique()) > 1


def test_the_same_seed_gives_the_same_weights(run, corpus, small_checkpoint, tmp_path):
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "again"))
    again = weights(tmp_path / "again")
    assert all(torch.equal(tensor, again[key]) for key, tensor in weights(run).items())


def test_the_recipe_of_a_run_trains_its_model_again(run, tmp_path):
    run_train.main([str(run / "recipe.json"), "--output_dir", str(tmp_path / "again")])
    again = weights(tmp_path / "again")
    assert all(torch.equal(tensor, again[key]) for key, tensor in weights(run).items())


def test_the_recipe_beside_the_model_has_no_paths_of_this_machine(run, corpus, small_checkpoint):
    recipe = json.loads((run / "model" / "recipe.json").read_text())
    assert recipe["encoder"] == small_checkpoint.name and "data_dir" not in recipe and "output_dir" not in recipe
    own = [str(run / "model" / "recipe.json"), "--data_dir", str(corpus), "--encoder", str(small_checkpoint)]
    again = parse_arguments([*own, "--output_dir", str(run), "--feature_dir", str(run.parent / "features")])
    for ours, theirs in zip(parse_arguments(flags(corpus, small_checkpoint, run)), again, strict=True):
        assert ours == theirs


@pytest.mark.parametrize("pooling_type", ["mean", "attentive", "statistics"])
def test_every_pooling_trains_with_validation_selection(corpus, small_checkpoint, tmp_path, pooling_type):
    more = ["--pooling_type", pooling_type, "--selection", "validation", "--class_weighting", "balanced"]
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", *more))
    config = WhisperSerConfig.from_pretrained(tmp_path / "run" / "model")
    assert config.pooling_type == pooling_type and config.class_weights == [1.0, 1.0]


def test_balanced_class_weights_are_scikit_learns(small_checkpoint, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", speakers=3)
    with open(corpus / "metadata.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["emotion"] == "calm" or row["file_name"].endswith("_0.wav")]
    write_table(corpus, rows)
    run_train.main(
        [
            *("--data_dir", str(corpus), "--encoder", str(small_checkpoint), "--output_dir", str(tmp_path / "run")),
            *("--test_speakers", "02", "--num_train_epochs", "1", "--class_weighting", "balanced"),
        ]
    )
    config = WhisperSerConfig.from_pretrained(tmp_path / "run" / "model")
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=[0] * 6 + [1] * 2)
    assert config.class_weights == pytest.approx(expected.tolist())


def test_validation_selection_keeps_the_best_epoch(corpus, small_checkpoint, tmp_path, monkeypatch):
    told, kept = iter([0.2, 0.9, 0.5]), []
    save = Trainer._save_checkpoint

    def spy(trainer, model, trial):
        kept.append(model.classifier.weight.detach().clone())
        save(trainer, model, trial)

    monkeypatch.setattr(training, "_metrics", lambda prediction: {"ua": next(told, 0.0)})
    monkeypatch.setattr(Trainer, "_save_checkpoint", spy)
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", "--selection", "validation"))
    assert len(kept) == 3 and not torch.equal(kept[1], kept[2])
    assert torch.equal(weights(tmp_path / "run")["classifier.weight"], kept[1])


def test_the_defaults_are_the_papers():
    arguments = parse_arguments(["--encoder", "x", "--data_dir", "x"]).training
    # Section 4.2: AdamW, batches of 16, 30 epochs, a cosine schedule with 10 % of warm-up and a peak of 10e-4.
    assert arguments.optim.startswith("adamw") and arguments.per_device_train_batch_size == 16
    assert (arguments.num_train_epochs, arguments.learning_rate) == (30, 1e-3)
    assert (arguments.lr_scheduler_type, arguments.warmup_steps) == ("cosine", 0.1)


def test_settings_of_model_and_front_end_are_saved_and_kept_when_training_on(corpus, small_checkpoint, tmp_path):
    more = ["--pad_to_seconds", "2", "--label_smoothing", "0.1", "--classifier_dropout", "0.2"]
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", *more, "--num_train_epochs", "1"))
    saved = str(tmp_path / "run" / "model")
    own = ["--data_dir", str(corpus), "--output_dir", str(tmp_path / "tuned"), "--num_train_epochs", "1"]
    run_train.main(["--model_name_or_path", saved, *own, "--label_smoothing", "0.3"])
    for folder, smoothing in ((saved, 0.1), (tmp_path / "tuned" / "model", 0.3)):
        config = WhisperSerConfig.from_pretrained(folder)
        assert (config.label_smoothing, config.classifier_dropout) == (smoothing, 0.2)
        assert WhisperSerFeatureExtractor.from_pretrained(folder).pad_to_seconds == 2


def test_the_front_end_has_the_mel_channels_of_the_encoder(small_whisper, tmp_path):
    WhisperModel(WhisperConfig(**{**small_whisper.config.to_dict(), "num_mel_bins": 128})).save_pretrained(tmp_path)
    model, extractor = build_model(ModelArguments(encoder=str(tmp_path)), ["a", "b"])
    assert (model.whisper_ser.encoder.conv1.in_channels, extractor.feature_size) == (128, 128)


def test_flags_go_over_the_recipe(corpus, small_checkpoint, tmp_path, capsys):
    recipe = tmp_path / "recipe.json"
    fields = {"encoder": str(small_checkpoint), "layers": [1], "num_train_epochs": 1, "test_speakers": ["00"]}
    recipe.write_text(json.dumps(fields))
    output = tmp_path / "run"
    run_train.main([str(recipe), "--data_dir", str(corpus), "--layers", "3", "--output_dir", str(output)])
    assert WhisperSerConfig.from_pretrained(output / "model").layer_index == 3
    result = read_result(output / "metrics.json")
    assert result.folds[0].test_speakers == ["00"] and result.training.epochs == 1
    assert result.folds[0].validation_speakers == [] and result.validation is None
    printed = capsys.readouterr().out
    assert "WA" in printed and "true label by row" in printed and "Try it yourself" in printed
    shown = printed.split("with any audio file:")[1]
    answer = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert "'label': 'calm'" in answer.stdout, answer.stderr


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layres": [2]}, "'layres'; did you mean 'layers'"),
        ({"pooling_type": "max"}, "--pooling_type max: expected one of mean, attentive, qkv, statistics"),
        ({"layers": [2.5]}, r"--layers \[2.5\]: expected a list, each a whole number"),
        ({"lr_scheduler_type": "cosin"}, "cosin is not a valid SchedulerType"),
        ({"load_best_model_at_end": True, "encoder": "x"}, "contradicts selection=last"),
        ({"learning_rate": 1e-3}, "--encoder"),
        ([1], "JSON object"),
    ],
)
def test_wrong_recipes_are_named(tmp_path, fields, message):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(fields))
    with pytest.raises(RecipeError, match=message):
        run_train.main([str(recipe), "--data_dir", "x"])


def test_a_table_of_ones_own_trains_with_flags_only(corpus, small_checkpoint, tmp_path):
    with open(corpus / "metadata.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["Wav;Gefuehl;Person", *(f"{r['file_name']};{r['emotion'][:3].upper()};{r['speaker']}" for r in rows)]
    table = tmp_path / "gefuehle.csv"
    table.write_text("\n".join([*lines, f"{rows[0]['file_name'].replace('00', '01')};OTHER;01"]))
    names = ["--path_column", "Wav", "--label_column", "Gefuehl", "--speaker_column", "Person"]
    labels = ["--label_aliases", "CAL=calm", "EXC=excited", "--labels", "excited", "calm", "--drop_other_labels"]
    own = ["--table", str(table), *names, *labels]
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", *own, "--num_train_epochs", "1"))
    assert WhisperSerConfig.from_pretrained(tmp_path / "run" / "model").labels == ["excited", "calm"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["corpus"]["utterances"] == 36


def test_settings_that_contradict_each_other_are_named(corpus, small_checkpoint, tmp_path):
    with pytest.raises(RecipeError, match="no recipe"):
        run_train.main([str(tmp_path / "absent.json")])
    with pytest.raises(RecipeError, match="--data_dir"):
        run_train.main(["--encoder", str(small_checkpoint)])
    with pytest.raises(RecipeError, match="no folder absent"):
        run_train.main(["--encoder", str(small_checkpoint), "--data_dir", "absent"])
    with pytest.raises(RecipeError, match="--label_smoothing"):
        run_train.main(flags(corpus, small_checkpoint, tmp_path, "--label_smoothing_factor", "0.1"))
    with pytest.raises(RecipeError, match="eval_strategy"):
        run_train.main(flags(corpus, small_checkpoint, tmp_path, "--selection", "validation", "--eval_strategy", "no"))
    with pytest.raises(RecipeError, match="publish"):
        run_train.main(flags(corpus, small_checkpoint, tmp_path, "--push_to_hub", "true"))
    with pytest.raises(RecipeError, match="needs validation speakers"):
        only_test = ["--selection", "validation", "--validation_fraction", "0"]
        arguments = ["--data_dir", str(corpus), "--encoder", str(small_checkpoint), "--output_dir", str(tmp_path)]
        run_train.main([*arguments, *only_test])
    with pytest.raises(ProtocolError, match="no speaker 4;"):
        run_train.main(flags(corpus, small_checkpoint, tmp_path, "--test_speakers", "4"))


def test_a_user_sees_one_line_instead_of_a_stack_trace(tmp_path):
    result = subprocess.run(
        command("--encoder", "x", "--data_dir", str(tmp_path)), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert "metadata.csv" in result.stderr and "Traceback" not in result.stderr


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(run, corpus, small_checkpoint, tmp_path):
    output = tmp_path / "run"
    process = subprocess.Popen(command(*flags(corpus, small_checkpoint, output)), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(output.glob("checkpoints/checkpoint-*/checksums.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "metrics.json").exists(), "the run ended before it was killed"
    with pytest.raises(CheckpointError, match=r"num_train_epochs was 3\S*, is now 4"):
        run_train.main(flags(corpus, small_checkpoint, output, "--num_train_epochs", "4"))
    result = subprocess.run(command(*flags(corpus, small_checkpoint, output)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Going on from" in result.stderr
    resumed = weights(output)
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in weights(run).items())


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(
    run, corpus, small_checkpoint, tmp_path, monkeypatch
):
    # Stops as if the machine had died while the second checkpoint was written.
    whole = Trainer._save_optimizer_and_scheduler

    def die_in_the_second(trainer, folder):
        if trainer.state.global_step > 2:
            raise KeyboardInterrupt
        whole(trainer, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", die_in_the_second)
    output = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_train.main(flags(corpus, small_checkpoint, output))
    assert len(list(output.glob("checkpoints/checkpoint-*"))) == 2
    monkeypatch.undo()
    run_train.main(flags(corpus, small_checkpoint, output))
    resumed = weights(output)
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in weights(run).items())


def test_checkpoints_of_another_program_are_left_alone(corpus, small_checkpoint, tmp_path):
    foreign = tmp_path / "run/checkpoints/checkpoint-5"
    foreign.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="another program"):
        run_train.main(flags(corpus, small_checkpoint, tmp_path / "run"))
    assert foreign.is_dir()


def test_two_processes_train_the_model_of_one(corpus, small_checkpoint, tmp_path):
    # Two processes of 3 utterances take the steps of one process of 6, and 18 train: no step is short.
    run = tmp_path / "one"
    run_train.main(flags(corpus, small_checkpoint, run, "--per_device_train_batch_size", "6"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29641"]
    more = ["--per_device_train_batch_size", "3"]
    result = subprocess.run(
        [*torchrun, str(ROOT / "run_train.py"), *flags(corpus, small_checkpoint, tmp_path / "two", *more)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["training"]["processes"] == 2 and metrics["training"]["batch_size"] == 6
    assert result.stdout.count("test: WA") == 1
    one, two = weights(run), weights(tmp_path / "two")
    for key in one:
        assert torch.allclose(one[key], two[key], rtol=1e-3, atol=2e-4), key
    columns = ["path", "probability_calm"]
    ours = pandas.read_parquet(tmp_path / "two" / "predictions.parquet")[columns]
    theirs = pandas.read_parquet(run / "predictions.parquet")[columns]
    assert (ours["path"] == theirs["path"]).all()
    assert (ours["probability_calm"] - theirs["probability_calm"]).abs().max() < 1e-3


def test_a_saved_model_is_trained_on(run, corpus, tmp_path):
    more = ["--data_dir", str(corpus), "--output_dir", str(tmp_path / "more"), "--test_speakers", "05"]
    run_train.main(
        ["--model_name_or_path", str(run / "model"), "--num_train_epochs", "1", "--learning_rate", "1e-9", *more]
    )
    before, after = weights(run), weights(tmp_path / "more")
    for key in before:
        assert torch.allclose(before[key], after[key], atol=1e-6), key
    with pytest.raises(RecipeError, match=r"layers is \[2\], not \[3\]"):
        run_train.main(["--model_name_or_path", str(run / "model"), "--layers", "3", *more])


def test_a_saved_model_learns_new_labels(run, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", speakers=4)
    table = (corpus / "metadata.csv").read_text().replace(",calm,", ",sleepy,")
    (corpus / "metadata.csv").write_text(table)
    run_train.main(
        [
            *("--model_name_or_path", str(run / "model"), "--data_dir", str(corpus), "--num_train_epochs", "2"),
            *("--output_dir", str(tmp_path / "run"), "--test_speakers", "03"),
        ]
    )
    model = WhisperForEmotionClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.config.labels == ["excited", "sleepy"]
    key = "whisper_ser.standardisation.mean"
    assert torch.equal(weights(tmp_path / "run")[key], weights(run)[key])


def test_unfrozen_layers_are_trained_and_no_others(corpus, small_checkpoint, small_whisper, tmp_path):
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", "--unfreeze_last_n", "1"))
    stock = small_whisper.encoder.state_dict()
    for key, tensor in encoder_weights(tmp_path / "run").items():
        name = key.split(".encoder.")[1]
        assert torch.equal(tensor, stock[name]) != name.startswith("layers.1."), name
    assert WhisperSerConfig.from_pretrained(tmp_path / "run" / "model").unfreeze_last_n == 0


def test_what_is_not_ours_is_left_alone(corpus, small_checkpoint, tmp_path):
    mine = tmp_path / "run/checkpoints/mine/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("keep")
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", "--max_steps", "1"))
    assert mine.read_text() == "keep"
    assert json.loads((tmp_path / "run/metrics.json").read_text())["training"]["epochs"] < 1
    (tmp_path / "other/model").mkdir(parents=True)
    with pytest.raises(RecipeError, match="holds no model"):
        run_train.main(flags(corpus, small_checkpoint, tmp_path / "other"))


def test_a_second_run_replaces_the_first(run, corpus, small_checkpoint, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(run, output)
    run_train.main(flags(corpus, small_checkpoint, output, "--pooling_type", "mean", "--num_train_epochs", "1"))
    assert WhisperSerConfig.from_pretrained(output / "model").pooling_type == "mean"
    assert json.loads((output / "metrics.json").read_text())["training"]["epochs"] == 1
    held = {"model", "metrics.json", "predictions.parquet", "confusion_matrix.png", "coverage.png", "recipe.json"}
    assert {file.name for file in output.iterdir()} == held
