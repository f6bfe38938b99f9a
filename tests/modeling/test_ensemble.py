"""Several heads over one encoder pass: against the single models they consist of, and wherever a model is used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import RATE, close, save_small_model, speechlike
from safetensors.torch import load_file
from transformers import AutoModelForAudioClassification, pipeline

from modeling_whisper_ser import (
    ConfigError,
    MissingWeightsError,
    WhisperForEmotionClassification,
    WhisperSerConfig,
    WhisperSerFeatureExtractor,
)
from whisper_ser.commands import train as run_train
from whisper_ser.errors import RecipeError
from whisper_ser.inference.model import load_model, load_saved
from whisper_ser.inference.predict import predict
from whisper_ser.inference.reference_output import read_reference_output, write_reference_output
from whisper_ser.inference.reference_waveform import check_probabilities, waveform
from whisper_ser.inference.timeline import timeline
from whisper_ser.training.recipe import parse_arguments

LABELS = ["angry", "happy", "sad"]
MEMBERS: list[dict] = [
    {},
    {"pooling_type": "attentive", "num_pooling_heads": 3},
    {"pooling_type": "mean", "layer_indices": [1]},
    {"layer_mixing": "weighted", "layer_indices": [1, 3], "layer_norm_after_pooling": True},
]


@pytest.fixture
def ensemble(small_checkpoint) -> WhisperForEmotionClassification:
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, layer_index=3, ensemble=MEMBERS)
    torch.nn.init.normal_(model.whisper_ser.standardisation.mean)
    torch.nn.init.uniform_(model.whisper_ser.standardisation.deviation, 0.5, 2)
    for classifier in model.classifiers:
        torch.nn.init.normal_(classifier.weight)
    return model.eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    clips = [speechlike(1.0), speechlike(5.3, 200, seed=1), speechlike(0.4, 90, seed=2)]
    return dict(WhisperSerFeatureExtractor()(clips, sampling_rate=RATE, return_tensors="pt"))


def alone(ensemble: WhisperForEmotionClassification, number: int, checkpoint: Path) -> WhisperForEmotionClassification:
    """Returns a model of one head that has the weights of one member."""
    fields = {"layer_indices": [3], **MEMBERS[number]}
    single = WhisperForEmotionClassification.from_encoder(checkpoint, LABELS, **fields).eval()
    weights, prefix = ensemble.state_dict(), f"whisper_ser.members.{number}."
    own = {key.replace(prefix, "whisper_ser."): weights[key] for key in weights if key.startswith(prefix)}
    own |= {f"classifier.{name}": weights[f"classifier.{number}.{name}"] for name in ("weight", "bias")}
    rows = [ensemble.config.layer_indices.index(layer) for layer in single.config.layer_indices]
    for name in ("mean", "deviation"):
        own[f"whisper_ser.standardisation.{name}"] = weights[f"whisper_ser.standardisation.{name}"][rows]
    missing, unexpected = single.load_state_dict(own, strict=False)
    assert not unexpected and all(".encoder." in key for key in missing)
    return single


@torch.no_grad()
def test_the_answer_is_the_mean_of_the_members_probabilities(ensemble, small_checkpoint, batch):
    singles = [alone(ensemble, number, small_checkpoint) for number in range(len(MEMBERS))]
    outputs, expected = ensemble(**batch, output_attentions=True), [single(**batch) for single in singles]
    probabilities = np.mean([one.logits.softmax(-1).numpy() for one in expected], axis=0)
    assert np.abs(np.diff([one.logits.numpy() for one in expected], axis=0)).max() > 0.1, "members differ"
    assert np.allclose(outputs.logits.softmax(-1), probabilities, atol=1e-5)
    assert np.allclose(outputs.logits.exp(), probabilities, atol=1e-5), "logits are log-probabilities"
    assert torch.allclose(outputs.pooler_output, torch.cat([one.pooler_output for one in expected], dim=1), atol=1e-4)
    attending = [single(**batch, output_attentions=True).pooling_attentions for single in singles]
    heads = [12, 3, 12]
    assert [one.shape[1] for one in attending if one is not None] == heads
    assert outputs.pooling_attentions.shape == (3, sum(heads), 265)
    together = torch.cat([one for one in attending if one is not None], dim=1)
    assert torch.allclose(outputs.pooling_attentions, together, atol=1e-5)


@torch.no_grad()
def test_the_loss_is_the_sum_of_each_members_own(ensemble, small_checkpoint, batch):
    labels = torch.tensor([0, 2, 1])
    weights, smoothing = [0.5, 1.0, 2.0], 0.1
    losses = []
    for number in range(len(MEMBERS)):
        single = alone(ensemble, number, small_checkpoint)
        single.config.class_weights, single.config.label_smoothing = weights, smoothing
        losses.append(single(**batch, labels=labels).loss.item())
    ensemble.config.class_weights, ensemble.config.label_smoothing = weights, smoothing
    ensemble.config.temperature = 3.0
    assert ensemble(**batch, labels=labels).loss.item() == pytest.approx(sum(losses), rel=1e-5)


def test_members_learn_as_if_they_were_alone(ensemble, small_checkpoint, batch):
    labels = torch.tensor([0, 2, 1])
    ensemble(**batch, labels=labels).loss.backward()
    for number, member in enumerate(ensemble.whisper_ser.members):
        single = alone(ensemble, number, small_checkpoint)
        single(**batch, labels=labels).loss.backward()
        expected = single.whisper_ser.projector.weight.grad
        assert torch.allclose(member.projector.weight.grad, expected, rtol=1e-3, atol=1e-5 * expected.abs().max())


@torch.no_grad()
def test_members_differ_by_their_start_and_by_what_is_dropped(small_checkpoint):
    model = WhisperForEmotionClassification.from_encoder(
        small_checkpoint, LABELS, ensemble=[{}, {}, {"input_dropout": 0.0}], input_dropout=0.5
    )
    first, second, third = model.whisper_ser.members
    assert not torch.equal(first.projector.weight, second.projector.weight)
    assert not torch.equal(model.classifier[0].weight, model.classifier[1].weight)
    seen: list[torch.Tensor] = []
    for member in (first, second, third):
        member.projector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    states = torch.randn(1, 8, 32)
    given = states.clone()
    model.train()(encoder_hidden_states=states, encoder_frame_counts=torch.tensor([5, 3]))
    dropped = [(one == 0).all(0) | (one[:5] == 0).all(0) for one in seen]
    assert not torch.equal(dropped[0], dropped[1]), "each member has its own mask"
    assert torch.equal(seen[2], given[0]) and torch.equal(states, given)


@torch.no_grad()
@pytest.mark.parametrize("standardised", [True, False])
def test_a_clip_alone_has_the_logits_it_has_in_a_batch(small_checkpoint, batch, standardised):
    fields = {"layer_index": 3, "ensemble": MEMBERS, "channel_standardisation": standardised}
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, **fields).eval()
    together = model(**batch).logits
    for row, frames in enumerate(batch["attention_mask"].sum(1)):
        single = model(input_features=batch["input_features"][row : row + 1, :frames]).logits[0]
        assert torch.allclose(together[row], single, atol=1e-5)


@torch.no_grad()
def test_it_saves_and_loads_as_one(ensemble, batch, tmp_path):
    ensemble.config.temperature = 1.7
    expected = ensemble(**batch).logits
    ensemble.save_pretrained(tmp_path)
    WhisperSerFeatureExtractor().save_pretrained(tmp_path)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert loaded.config.ensemble == MEMBERS and loaded.config.temperature == 1.7
    close(loaded(**batch).logits, expected)
    answers = pipeline("audio-classification", model=str(tmp_path))(speechlike(1.0))
    probabilities = dict(zip(LABELS, expected[0].softmax(-1).tolist(), strict=True))
    assert {one["label"]: one["score"] for one in answers} == pytest.approx(probabilities, abs=1e-5)
    write_reference_output(tmp_path)
    known = read_reference_output(tmp_path)
    (again,) = predict(waveform(known["waveform"]), tmp_path)
    check_probabilities(again.probabilities, known, "predict")
    half = WhisperForEmotionClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    logits = half(batch["input_features"].bfloat16(), batch["attention_mask"]).logits
    assert logits.dtype == torch.bfloat16 and torch.allclose(logits.float(), expected, atol=0.2)


def test_a_lost_member_is_an_error(ensemble, tmp_path):
    ensemble.save_pretrained(tmp_path)
    with pytest.raises(MissingWeightsError, match=r"members\.4"):
        WhisperForEmotionClassification.from_pretrained(tmp_path, ensemble=[*MEMBERS, {}])


@torch.no_grad()
def test_new_labels_start_all_classifiers_anew(ensemble, batch, tmp_path):
    ensemble.config.temperature = 2.0
    ensemble.save_pretrained(tmp_path)
    for renewed in (
        WhisperForEmotionClassification.from_pretrained(tmp_path, new_labels=["x", "y"]),
        WhisperForEmotionClassification.from_pretrained(tmp_path, num_labels=2, ignore_mismatched_sizes=True),
    ):
        assert [classifier.weight.shape for classifier in renewed.classifiers] == [(2, 256)] * 4
        assert renewed.config.temperature == 1, "it was that of the old classifiers"
        assert renewed(**batch).logits.shape == (3, 2)
        close(renewed(**batch).pooler_output, ensemble(**batch).pooler_output)


def test_recordings_windows_and_streams_hear_all_members(small_checkpoint, tmp_path):
    # 70 s go stretch by stretch, and windows are pooled from frame vectors.
    folder = save_small_ensemble(small_checkpoint, tmp_path)
    audio = np.concatenate([speechlike(7.0, pitch, seed=pitch) for pitch in range(90, 290, 20)])
    model, extractor = load_saved(folder)
    with torch.no_grad():
        logits = model(**extractor(audio, sampling_rate=RATE, return_tensors="pt")).logits
    expected = logits[0].softmax(-1).tolist()
    recognizer = load_model(folder)
    (prediction,) = predict(audio, recognizer)
    assert [prediction.probabilities[label] for label in LABELS] == pytest.approx(expected, abs=1e-4)
    whole = timeline(audio, recognizer, cut="even").whole
    assert list(whole.values()) == pytest.approx(expected, abs=1e-4)


def save_small_ensemble(checkpoint: Path, folder: Path) -> Path:
    model = WhisperForEmotionClassification.from_encoder(checkpoint, LABELS, layer_index=3, ensemble=MEMBERS)
    for classifier in model.classifiers:
        torch.nn.init.normal_(classifier.weight, 0, 0.7)
    model.config.temperature = 0.6
    model.save_pretrained(folder)
    WhisperSerFeatureExtractor().save_pretrained(folder)
    return folder


@torch.no_grad()
def test_a_model_saved_before_ensembles_answers_as_it_did(small_checkpoint, batch, tmp_path):
    save_small_model(small_checkpoint, tmp_path)
    model = WhisperForEmotionClassification.from_pretrained(tmp_path)
    names = {key.split(".encoder.")[0] for key in load_file(tmp_path / "model.safetensors")}
    assert names == {
        "whisper_ser",
        "whisper_ser.standardisation.mean",
        "whisper_ser.standardisation.deviation",
        "whisper_ser.projector.weight",
        "whisper_ser.projector.bias",
        "whisper_ser.projector_norm.weight",
        "whisper_ser.projector_norm.bias",
        "whisper_ser.pooling.query.mean.weight",
        "whisper_ser.pooling.key.weight",
        "whisper_ser.pooling.value.weight",
        "whisper_ser.pooling.out.weight",
        "classifier.weight",
        "classifier.bias",
    }
    fields = json.loads((tmp_path / "config.json").read_text())
    for name in ("ensemble", "temperature"):
        fields.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    old = WhisperForEmotionClassification.from_pretrained(tmp_path)
    assert old.config.ensemble is None and old.config.temperature == 1
    outputs = model(**batch)
    close(old(**batch).logits, outputs.logits)
    by_hand = outputs.pooler_output @ model.classifier.weight.T + model.classifier.bias
    assert torch.allclose(outputs.logits, by_hand, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ensemble": []}, "at least two members"),
        ({"ensemble": [{}]}, "at least two members"),
        ({"ensemble": {"pooling_type": "qkv"}}, "at least two members"),
        ({"ensemble": [{}, {"d_model": 32}]}, "'d_model': 32.*expected a dict of layer_indices"),
        ({"ensemble": [{}, "qkv"]}, "A member of the ensemble is 'qkv'"),
        ({"ensemble": [{}, {"pooling_type": "max"}]}, "Member 2 .*pooling_type='max'"),
        ({"ensemble": [{}, {"layer_indices": []}]}, "Member 2 .*layer_indices"),
        ({"ensemble": [{"layer_indices": [1, 2]}, {}]}, "Member 1 .*layer_mixing='none'"),
        ({"ensemble": [{"layer_indices": [4]}, {}], "layer_index": 3}, "ascend to 3"),
        ({"ensemble": [{}, {}], "layer_indices": [2, 3]}, r"reads \[2\]"),
        ({"ensemble": [{"layer_indices": [1]}, {}], "layer_indices": [3]}, r"reads the layers \[1\]"),
        ({"temperature": 0}, "temperature=0 .*above 0"),
        ({"temperature": float("inf")}, "temperature=inf"),
    ],
)
def test_what_cannot_be_is_refused_in_words(fields, message):
    with pytest.raises(ConfigError, match=message):
        WhisperSerConfig(**fields)


def test_members_read_what_they_name_or_what_the_model_reads():
    mixed = WhisperSerConfig(
        layer_mixing="concat", layer_indices=[2, 3], ensemble=[{}, {"layer_indices": [2]}, {"layer_mixing": "none"}]
    )
    assert [head.layer_indices for head in mixed.of_heads()] == [[2, 3], [2], [3]]
    named = WhisperSerConfig(ensemble=[{"layer_indices": [3]}, {"layer_indices": [1]}, {}])
    assert named.layer_indices == [1, 3] and [head.layer_indices for head in named.of_heads()] == [[3], [1], [3]]


def test_score_scaling_follows_each_members_pooling():
    config = WhisperSerConfig(
        ensemble=[{}, {"pooling_type": "attentive"}, {"pooling_type": "attentive", "scale_scores": True}]
    )
    assert [head.scale_scores for head in config.of_heads()] == [True, False, True]


def test_a_run_trains_all_members_and_its_recipe_says_so(corpus, small_checkpoint, tmp_path):
    output = tmp_path / "run"
    members = ["{}", '{"pooling_type": "attentive"}', '{"layer_indices": [1]}']
    run_train.main(
        ["--data_dir", str(corpus), "--encoder", str(small_checkpoint), "--output_dir", str(output), "--ensemble"]
        + [*members, "--num_train_epochs", "3", "--test_speakers", "04", "05", "--layers", "2"]
    )
    model = WhisperForEmotionClassification.from_pretrained(output / "model")
    assert model.config.ensemble == [json.loads(member) for member in members]
    assert model.config.layer_indices == [1, 2]
    assert json.loads((output / "recipe.json").read_text())["ensemble"] == model.config.ensemble
    assert "ensemble of 3 heads" in (output / "model" / "README.md").read_text()
    table = pandas.read_parquet(output / "predictions.parquet")
    (again,) = predict(table["path"][0], output / "model")
    assert again.probabilities["calm"] == pytest.approx(table["probability_calm"][0], abs=2e-3)
    assert json.loads((output / "metrics.json").read_text())["test"]["ua"] >= 0.9
    torch.manual_seed(0)
    start = WhisperForEmotionClassification.from_encoder(small_checkpoint, ["a", "b"], **own_fields(model))
    for trained, fresh in zip(model.whisper_ser.members, start.whisper_ser.members, strict=True):
        assert (trained.projector.weight - fresh.projector.weight).abs().max() > 0.01
    shutil.rmtree(output)


def own_fields(model: WhisperForEmotionClassification) -> dict:
    return {"layer_index": 2, "ensemble": model.config.ensemble}


def test_a_recipe_takes_members_as_objects_or_as_text(tmp_path):
    for members in ([{}, {"pooling_type": "mean"}], ["{}", '{"pooling_type": "mean"}']):
        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps({"encoder": "x", "ensemble": members}))
        assert parse_arguments([str(recipe)]).model.ensemble == [{}, {"pooling_type": "mean"}]
    with pytest.raises(RecipeError, match="--ensemble: .*expected a JSON object"):
        parse_arguments(["--encoder", "x", "--ensemble", "{}", "{pooling: mean}"])
