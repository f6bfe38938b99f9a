"""Mixup, logit adjustment, averaged weights and rates of encoder layers, against what their papers' formulas give."""

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import RATE, speechlike
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, one_hot
from transformers import Trainer

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.commands import train as run_train
from whisper_ser.errors import RecipeError
from whisper_ser.training import trainer as training
from whisper_ser.training.experiment import prepare_experiment
from whisper_ser.training.models import build_model
from whisper_ser.training.recipe import parse_arguments


def flags(corpus: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    folders = ["--output_dir", str(output), "--feature_dir", str(output.parent / "features")]
    parts = ["--test_speakers", "04", "05", "--validation_speakers", "03", "--layers", "2"]
    return [
        "--data_dir",
        str(corpus),
        "--encoder",
        str(checkpoint),
        *folders,
        *parts,
        "--num_train_epochs",
        "3",
        *more,
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.fixture
def model(small_checkpoint) -> WhisperForEmotionClassification:
    fields = {"layer_index": 2, "pooling_dropout": 0.0, "channel_standardisation": False}
    return WhisperForEmotionClassification.from_encoder(small_checkpoint, ["a", "b", "c"], **fields)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    clips = [speechlike(seconds, pitch) for seconds, pitch in ((0.5, 90), (0.8, 150), (0.6, 260), (0.7, 200))]
    features = WhisperSerFeatureExtractor()(clips, sampling_rate=RATE, return_tensors="pt")
    return {**features, "labels": torch.tensor([0, 1, 2, 1])}


def test_mixup_mixes_pooled_vectors_and_labels_by_one_share(model, batch):
    with torch.no_grad():
        pooled = model.eval()(**batch).pooler_output
        model.train().config.mixup = 0.4
        torch.manual_seed(3)
        mixed = model(**batch)
    torch.manual_seed(3)
    share = torch.distributions.Beta(0.4, 0.4).sample()
    partners = torch.randperm(4)
    assert (partners != torch.arange(4)).any() and 0.001 < share < 0.999
    logits = model.classifier(share * pooled + (1 - share) * pooled[partners])
    targets = one_hot(batch["labels"], 3).float()
    # Cross entropy is linear in its target: mixing the losses is mixing the labels (Zhang et al. 2018, equation 2).
    expected = cross_entropy(logits, share * targets + (1 - share) * targets[partners])
    assert torch.allclose(mixed.logits, logits, atol=1e-5)
    assert mixed.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(mixed.pooler_output, pooled, atol=1e-5)


def test_nothing_is_mixed_without_labels_or_outside_training(model, batch):
    model.config.mixup = 0.4
    with torch.no_grad():
        used = model.eval()(**batch)
        without = model.train()(batch["input_features"], batch["attention_mask"])
        model.config.mixup = 0.0
        plain = model.train()(**batch)
    assert torch.allclose(used.logits, plain.logits, atol=1e-5) and torch.allclose(without.logits, plain.logits)
    assert used.loss.item() == pytest.approx(plain.loss.item(), rel=1e-5)


def test_logit_adjustment_adds_log_priors_in_the_loss_alone(model, batch):
    with torch.no_grad():
        plain = model.eval()(**batch)
        model.config.class_priors = [0.7, 0.2, 0.1]
        adjusted = model(**batch)
    assert torch.equal(plain.logits, adjusted.logits)
    shifted = plain.logits.double().numpy() + np.log([0.7, 0.2, 0.1])
    of_label = shifted[np.arange(4), batch["labels"].numpy()]
    expected = np.mean(np.log(np.exp(shifted).sum(1)) - of_label)
    assert adjusted.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighting", ["none", "logit_adjustment", "balanced"])
def test_a_classifier_that_hears_nothing_prefers_the_frequent_class_unless_adjusted(model, weighting):
    labels = [0] * 14 + [1] * 4 + [2] * 2
    training.weigh_classes(model.config, labels, weighting)
    bias = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = model._loss(bias.expand(20, 3), torch.tensor(labels))
        value.backward()
        return value

    optimizer.step(loss)
    learnt = bias.detach().softmax(0).tolist()
    expected = [0.7, 0.2, 0.1] if weighting == "none" else [1 / 3] * 3
    assert learnt == pytest.approx(expected, abs=1e-3)


def test_the_priors_are_the_shares_of_the_training_part(corpus, small_checkpoint, tmp_path):
    table = pandas.read_csv(corpus / "metadata.csv", dtype=str)
    rare = table[(table["emotion"] == "calm") | table["file_name"].str.contains("_0.wav")]
    rare.assign(file_name=[str(corpus / name) for name in rare["file_name"]]).to_csv(tmp_path / "t.csv", index=False)
    more = ["--table", str(tmp_path / "t.csv"), "--class_weighting", "logit_adjustment", "--num_train_epochs", "1"]
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "run", *more))
    config = WhisperForEmotionClassification.from_pretrained(tmp_path / "run" / "model").config
    assert config.class_priors == pytest.approx([9 / 12, 3 / 12]) and config.class_weights is None


@pytest.mark.parametrize("selection", ["last", "validation"])
def test_an_interrupted_run_with_every_option_ends_as_one_that_was_not(
    corpus, small_checkpoint, tmp_path, monkeypatch, selection
):
    options = [
        "--mixup",
        "0.4",
        "--class_weighting",
        "logit_adjustment",
        "--selection",
        selection,
    ]
    augmented = ["--augment", "noise", "gain", "--augment_copies", "1", "--input_dropout", "0.2"]
    own = [*options, *augmented]
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "whole", *own))
    save = Trainer._save_optimizer_and_scheduler

    def die_in_the_second(trainer, folder):
        if trainer.state.global_step > 2:
            raise KeyboardInterrupt
        save(trainer, folder)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_save_optimizer_and_scheduler", die_in_the_second)
        run_train.main(flags(corpus, small_checkpoint, tmp_path / "again", *own))
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "again", *own))
    resumed = weights(tmp_path / "again")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights(tmp_path / "whole").items())
    tables = [pandas.read_parquet(tmp_path / name / "predictions.parquet") for name in ("whole", "again")]
    pandas.testing.assert_frame_equal(*tables)


def test_the_epoch_kept_in_a_cross_validation_is_the_one_that_a_single_run_keeps(corpus, small_checkpoint, tmp_path):
    more = ["--selection", "validation"]
    run_train.main(flags(corpus, small_checkpoint, tmp_path / "alone", *more))
    arguments = parse_arguments(flags(corpus, small_checkpoint, tmp_path / "other", *more))
    experiment = prepare_experiment(arguments)
    split, records = experiment.folds[0].split, experiment.records
    run_train.set_seed(arguments.training.seed)
    model, extractor = build_model(arguments.model, ["calm", "excited"])
    inputs = training.prepare_inputs(model, extractor, records, tmp_path / "features")
    kept = training.train(model, extractor, inputs, split, arguments, resumable=False)
    alone = weights(tmp_path / "alone")
    assert all(torch.equal(tensor, alone[name]) for name, tensor in kept.model.state_dict().items())
    best = max(kept.history, key=lambda epoch: epoch["validation"]["ua"])["validation"]
    predicted = kept.logits["validation"].argmax(1)
    assert best["wa"] == pytest.approx((predicted == training._targets(split.validation, ["calm", "excited"])).mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class_weighting", "priors"], "priors"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        parse_arguments(["--encoder", "x", *options])
