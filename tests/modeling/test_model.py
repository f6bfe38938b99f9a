"""The models: both entrances, freezing, loss, saving and loading."""

import logging
import math

import pytest
import torch
from conftest import RATE, close, speechlike
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForAudioClassification, WhisperConfig

from modeling_whisper_ser import (
    ConfigError,
    MissingWeightsError,
    WhisperForEmotionClassification,
    WhisperSerConfig,
    WhisperSerFeatureExtractor,
    WhisperSerModel,
    encoder_whisper_ser,
)

LABELS = ["angry", "happy", "sad"]


@pytest.fixture
def model(small_checkpoint):
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, layer_index=2).eval()
    # As after a training: a standardisation that does something.
    torch.nn.init.normal_(model.whisper_ser.standardisation.mean)
    torch.nn.init.uniform_(model.whisper_ser.standardisation.deviation, 0.5, 2)
    return model


@pytest.fixture
def batch():
    clips = [speechlike(1.0), speechlike(5.3, 200, seed=1), speechlike(0.4, 90, seed=2)]
    return WhisperSerFeatureExtractor()(clips, sampling_rate=RATE, return_tensors="pt")


@torch.no_grad()
@pytest.mark.parametrize("pooling_type", ["mean", "attentive", "qkv", "statistics"])
def test_a_clip_alone_has_the_logits_it_has_in_a_batch(small_checkpoint, batch, pooling_type):
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, pooling_type=pooling_type).eval()
    together = model(**batch).logits
    for row, frames in enumerate(batch["attention_mask"].sum(1)):
        alone = model(input_features=batch["input_features"][row : row + 1, :frames]).logits[0]
        assert torch.allclose(together[row], alone, atol=1e-5)


@torch.no_grad()
def test_both_entrances_give_the_same_logits(model, batch):
    states, mask = model.whisper_ser.encode(**batch)
    stored = model(encoder_hidden_states=states, encoder_attention_mask=mask).logits
    close(model(**batch).logits, stored)


@torch.no_grad()
def test_packed_states_give_the_logits_of_padded_ones(model, batch):
    states, mask = model.whisper_ser.encode(**batch)
    counts = mask.sum(1)
    packed = torch.cat([utterance[:, :count] for utterance, count in zip(states, counts, strict=True)], dim=1)
    expected = model(encoder_hidden_states=states, encoder_attention_mask=mask).logits
    assert torch.allclose(model(encoder_hidden_states=packed, encoder_frame_counts=counts).logits, expected, atol=1e-6)
    for wrong in (counts + 1, counts[:2], counts * 0):
        with pytest.raises(ValueError, match="sum of the counts"):
            model(encoder_hidden_states=packed, encoder_frame_counts=wrong)


@torch.no_grad()
def test_input_dropout_takes_the_same_channels_of_all_frames_of_an_utterance(small_checkpoint):
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, input_dropout=0.5).whisper_ser
    seen = []
    model.projector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    counts = torch.tensor([5, 3])
    states = torch.randn(1, 8, 32)
    given = states.clone()
    model.train()(encoder_hidden_states=states, encoder_frame_counts=counts)
    assert torch.equal(states, given), "the caller's states are left alone"
    first, second = seen[0].split([5, 3])
    for dropped, whole in ((first, states[0, :5]), (second, states[0, 5:])):
        kept = (dropped != 0).all(0)
        assert 0 < kept.sum() < 32 and (dropped[:, ~kept] == 0).all()
        # Those that stay are doubled, so that the sum stays the same on average.
        assert torch.allclose(dropped[:, kept], 2 * whole[:, kept])
    assert not torch.equal((first != 0).all(0), (second != 0).all(0))


@torch.no_grad()
@pytest.mark.parametrize("mixing", ["concat", "weighted", "attention"])
def test_layers_are_mixed_as_each_mixing_says(small_checkpoint, batch, tmp_path, mixing):
    fields = {"layer_mixing": mixing, "layer_indices": [1, 3], "pooling_type": "mean"}
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, **fields).eval()
    base = model.whisper_ser
    for parameter in base.mixing.parameters():
        parameter.normal_()
    states, mask = base.encode(**batch)
    for row, layer in enumerate((1, 3)):
        single = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, layer_index=layer)
        close(states[:, row], single.whisper_ser.encode(**batch)[0][:, 0])
    frame = states[1, :, 7]

    def normalised(row):
        return (row - row.mean()) / (row.var(correction=0) + 1e-5).sqrt()

    if mixing == "concat":
        expected = torch.cat([frame[0], frame[1]])
    else:
        rows = [normalised(row) for row in frame]
        scores = base.mixing.layer_weights if mixing == "weighted" else base.mixing.layer_bias
        if mixing == "attention":
            scores = scores + torch.stack([base.mixing.score.weight[0] @ row for row in rows])
        shares = [math.exp(score) / sum(math.exp(other) for other in scores) for score in scores]
        expected = shares[0] * rows[0] + shares[1] * rows[1]
    seen = []
    base.projector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(encoder_hidden_states=states[1:2, :, 7:8])
    assert torch.allclose(seen[0][0], expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = WhisperForEmotionClassification.from_pretrained(tmp_path)
    close(loaded(**batch).logits, model(**batch).logits)


@torch.no_grad()
@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
def test_the_head_is_what_the_paper_writes(small_checkpoint, standardised, normalised):
    fields = {"channel_standardisation": standardised, "layer_norm_after_pooling": normalised, "pooling_type": "mean"}
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, **fields).eval()
    base = model.whisper_ser
    for parameter in [p for p in model.parameters() if p.requires_grad]:
        parameter.normal_()
    base.standardisation.mean.normal_()
    base.standardisation.deviation.uniform_(0.5, 2)

    def layer_norm(rows, norm):
        centred = rows - rows.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias

    states = torch.randn(1, 7, 32)
    read = (
        (states[0] - base.standardisation.mean[0]) / base.standardisation.deviation[0] if standardised else states[0]
    )
    hidden = layer_norm(read @ base.projector.weight.T + base.projector.bias, base.projector_norm)
    pooled = hidden.mean(0)
    pooled = layer_norm(pooled, base.pooled_norm) if normalised else pooled
    expected = model.classifier.weight @ pooled + model.classifier.bias
    assert torch.allclose(model(encoder_hidden_states=states[None]).logits[0], expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_statistics_are_those_of_the_states_and_are_projected_afterwards(small_checkpoint):
    fields = {"pooling_type": "statistics", "layer_mixing": "concat", "layer_indices": [1, 2]}
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, **fields).eval()
    base = model.whisper_ser
    utterances = [torch.randn(2, frames, 32) * 3 + 1 for frames in (4, 7, 9, 5)]
    base.fit(lambda: iter(utterances))
    frames = torch.cat(utterances, dim=1)
    mean, deviation = frames.mean(1, keepdim=True), frames.std(1, correction=0, keepdim=True)
    states = [torch.cat(list((one - mean) / deviation), dim=1) for one in utterances]
    both = torch.stack([torch.cat([one.mean(0), (one.var(0, correction=0) + 1e-6).sqrt()]) for one in states])
    given = (both - both.mean(0)) / both.std(0, correction=0)
    projected = torch.nn.functional.layer_norm(given @ base.projector.weight.T + base.projector.bias, (256,))
    expected = projected @ model.classifier.weight.T + model.classifier.bias
    counts = torch.tensor([one.shape[1] for one in utterances])
    found = model(encoder_hidden_states=frames, encoder_frame_counts=counts).logits
    assert torch.allclose(found, expected, atol=1e-3)
    assert base.vector_width == 64 == base.frame_vectors(utterances[0]).shape[1]


@torch.no_grad()
@pytest.mark.parametrize("dropout", ["input_dropout", "pooling_dropout", "classifier_dropout"])
@pytest.mark.parametrize("pooling_type", ["attentive", "qkv"])
def test_each_dropout_acts_in_training_and_never_in_use(small_checkpoint, batch, dropout, pooling_type):
    none = {"input_dropout": 0.0, "pooling_dropout": 0.0, "classifier_dropout": 0.0, "pooling_type": pooling_type}
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, **{**none, dropout: 0.5})
    assert not torch.equal(model.train()(**batch).logits, model(**batch).logits)
    assert torch.equal(model.eval()(**batch).logits, model(**batch).logits)
    still = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, **none).train()
    assert torch.equal(still(**batch).logits, still(**batch).logits)


def test_layers_use_the_attention_of_the_model(small_checkpoint, tmp_path):
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS)
    model.save_pretrained(tmp_path)
    eager = WhisperForEmotionClassification.from_pretrained(tmp_path, attn_implementation="eager")
    for loaded, expected in ((model, "sdpa"), (eager, "eager")):
        assert loaded.whisper_ser.encoder.layers[0].self_attn.config._attn_implementation == expected


@torch.no_grad()
def test_what_is_asked_for_is_returned(model, batch):
    plain = model(**batch)
    assert set(plain) == {"logits", "pooler_output"}
    assert plain.logits.shape == (3, 3) and plain.pooler_output.shape == (3, 256)
    full = model(**batch, labels=torch.tensor([0, 1, 2]), output_attentions=True, output_hidden_states=True)
    assert full.frame_states.shape == (3, 1, 265, 32)
    assert full.frame_mask.sum(1).tolist() == [50, 265, 20]
    assert full.pooling_attentions.shape == (3, 12, 265)
    assert torch.allclose(full.pooling_attentions.sum(-1), torch.ones(3, 12))
    assert (full.pooling_attentions[2, :, 20:] == 0).all()
    assert isinstance(model(**batch, return_dict=False), tuple)


def test_the_inputs_must_be_one_of_both(model, batch):
    states, mask = model.whisper_ser.encode(**batch)
    with pytest.raises(ValueError, match="either input_features or encoder_hidden_states"):
        model()
    with pytest.raises(ValueError, match="either input_features or encoder_hidden_states"):
        model(**batch, encoder_hidden_states=states)
    with pytest.raises(ValueError, match=r"\(batch, 1, frames, 32\)"):
        model(encoder_hidden_states=states[:, 0])
    with pytest.raises(ValueError, match="at least one real frame"):
        model(encoder_hidden_states=states, encoder_attention_mask=torch.zeros_like(mask))


def test_loss_with_class_weights_and_label_smoothing_by_hand(model, batch):
    weights, smoothing = [0.5, 2.0, 1.0], 0.1
    model.config.class_weights, model.config.label_smoothing = weights, smoothing
    labels = [1, 0, 1]
    with torch.no_grad():
        outputs = model(**batch, labels=torch.tensor(labels))
    total = 0.0
    for logits, label in zip(outputs.logits.tolist(), labels, strict=True):
        log_sum = math.log(sum(map(math.exp, logits)))
        log_p = [logit - log_sum for logit in logits]
        hit = -weights[label] * log_p[label]
        spread = -sum(w * p for w, p in zip(weights, log_p, strict=True)) / len(logits)
        total += (1 - smoothing) * hit + smoothing * spread
    assert outputs.loss.item() == pytest.approx(total / sum(weights[label] for label in labels), rel=1e-5)


def test_the_encoder_is_frozen_until_asked(small_checkpoint, tmp_path):
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, LABELS, layer_index=2)
    model.save_pretrained(tmp_path)
    for frozen in (model, WhisperForEmotionClassification.from_pretrained(tmp_path)):
        frozen.train()
        encoder = frozen.whisper_ser.encoder
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        assert not any(module.training for module in encoder.modules())
        assert frozen.classifier.weight.requires_grad and frozen.whisper_ser.projector.training


@pytest.mark.parametrize(("layer_index", "unfrozen"), [(2, ["layers.1"]), (3, ["layers.2", "layer_norm"])])
def test_unfreezing_reaches_the_top_layers_and_never_the_positions(small_checkpoint, tmp_path, layer_index, unfrozen):
    model = WhisperForEmotionClassification.from_encoder(
        small_checkpoint, LABELS, layer_index=layer_index, unfreeze_last_n=1
    )
    model.save_pretrained(tmp_path)
    for loaded in (model, WhisperForEmotionClassification.from_pretrained(tmp_path)):
        for name, parameter in loaded.whisper_ser.encoder.named_parameters():
            assert parameter.requires_grad == name.startswith(tuple(unfrozen)), name
        loaded.train()
        assert loaded.whisper_ser.encoder.layers[-1].training and not loaded.whisper_ser.encoder.layers[0].training


@torch.no_grad()
def test_channel_standardisation_is_that_of_all_frames(small_checkpoint, batch):
    model = WhisperSerModel(WhisperSerConfig(encoder_config=WhisperConfig(d_model=32, encoder_attention_heads=4)))
    utterances = [100 * torch.randn(1, frames, 32) + 7 for frames in (3, 50, 1)]
    model.standardisation.fit(iter(utterances))
    frames = torch.cat(utterances, dim=1)[0]
    assert torch.allclose(model.standardisation.mean[0], frames.mean(0), rtol=1e-4)
    assert torch.allclose(model.standardisation.deviation[0], frames.std(0, correction=0), rtol=1e-4)
    standardised = model.standardisation(frames[None, None])
    assert standardised.mean((0, 1, 2)).abs().max() < 1e-4
    with pytest.raises(ValueError, match="at least one utterance"):
        model.standardisation.fit([])
    model.standardisation.fit([torch.full((1, 5, 32), 3.0)])
    assert torch.isfinite(model.standardisation(torch.full((1, 1, 5, 32), 3.0))).all()


@torch.no_grad()
def test_saved_and_loaded_models_answer_alike(model, batch, tmp_path):
    expected = model(**batch)
    model.save_pretrained(tmp_path)
    for loader in (WhisperForEmotionClassification, AutoModelForAudioClassification, AutoModel):
        close(loader.from_pretrained(tmp_path)(**batch).logits, expected.logits)
    pooled = WhisperSerModel.from_pretrained(tmp_path)(**batch).pooler_output
    close(pooled, expected.pooler_output)


def test_new_labels_work_through_the_auto_classes(model, tmp_path):
    model.config.class_weights = [1, 2, 3]
    model.save_pretrained(tmp_path)
    renewed = AutoModelForAudioClassification.from_pretrained(tmp_path, new_labels=["x", "y"])
    assert renewed.config.labels == ["x", "y"] and renewed.classifier.weight.shape == (2, 256)
    other = AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert other.classifier.weight.shape == (5, 256) and other.config.class_weights is None
    renamed = WhisperForEmotionClassification.from_pretrained(tmp_path, id2label={0: "x", 1: "y", 2: "z"})
    assert renamed.config.label2id == {"x": 0, "y": 1, "z": 2}
    assert torch.equal(renamed.classifier.weight, model.classifier.weight)


def test_whole_numbers_are_class_weights_too(model, batch):
    model.config.class_weights = [1, 2, 3]
    assert torch.isfinite(model(**batch, labels=torch.tensor([0, 1, 2])).loss)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "mean"}, "no field 'pooling'"),
        ({"layer": 2}, "no field 'layer'; did you mean 'layer_index'"),
        ({"labels": "angry"}, "must be a list of labels"),
    ],
)
def test_from_encoder_refuses_what_is_no_field(small_checkpoint, fields, message):
    with pytest.raises(ConfigError, match=message):
        WhisperForEmotionClassification.from_encoder(small_checkpoint, **fields)


@torch.no_grad()
def test_what_stands_behind_stored_states_is_not_read(model, batch):
    states, mask = model.whisper_ser.encode(**batch)
    expected = model(encoder_hidden_states=states, encoder_attention_mask=mask).logits
    states[~mask[:, None].expand(states.shape[:3])] = float("nan")
    close(model(encoder_hidden_states=states, encoder_attention_mask=mask).logits, expected)


@torch.no_grad()
def test_half_precision_answers_nearly_alike(model, batch, tmp_path):
    expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    half = WhisperForEmotionClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    logits = half(batch["input_features"].bfloat16(), batch["attention_mask"]).logits
    assert logits.dtype == torch.bfloat16
    assert torch.allclose(logits.float(), expected, atol=0.1)


@pytest.mark.parametrize(
    "lost", ["classifier.weight", "whisper_ser.projector.weight", "whisper_ser.encoder.conv1.bias"]
)
def test_missing_weights_are_an_error_not_a_random_start(model, tmp_path, lost):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for loader in (WhisperForEmotionClassification, AutoModelForAudioClassification):
        with pytest.raises(MissingWeightsError, match=lost):
            loader.from_pretrained(tmp_path)


def test_weights_of_another_shape_are_an_error(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(MissingWeightsError, match="classifier.bias, classifier.weight.*new_labels"):
        WhisperForEmotionClassification.from_pretrained(tmp_path, num_labels=5)
    with pytest.raises(MissingWeightsError, match="projector"):
        WhisperForEmotionClassification.from_pretrained(tmp_path, d_model=64, ignore_mismatched_sizes=True)


def test_transformers_own_way_to_a_new_classifier_works(model, tmp_path):
    model.save_pretrained(tmp_path)
    as_in_the_examples = {
        "id2label": {str(i): f"e{i}" for i in range(5)},
        "label2id": {f"e{i}": str(i) for i in range(5)},
    }
    renewed = AutoModelForAudioClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True, **as_in_the_examples
    )
    assert renewed.classifier.weight.shape == (5, 256) and renewed.classifier.weight.abs().sum() > 0
    assert renewed.config.labels == ["e0", "e1", "e2", "e3", "e4"] and renewed.config.label2id["e4"] == 4
    assert torch.equal(renewed.whisper_ser.projector.weight, model.whisper_ser.projector.weight)


@torch.no_grad()
@pytest.mark.parametrize("labels", [["calm", "bored"], ["a", "b", "c"]])
def test_a_new_classifier_is_started_on_purpose(model, batch, tmp_path, labels):
    model.config.class_weights = [1.0, 2.0, 3.0]
    model.save_pretrained(tmp_path)
    renewed = WhisperForEmotionClassification.from_pretrained(tmp_path, new_labels=labels)
    assert renewed.config.class_weights is None
    assert renewed.config.labels == labels and renewed.config.label2id == {label: i for i, label in enumerate(labels)}
    outputs = renewed(**batch)
    assert outputs.logits.shape == (3, len(labels))
    assert torch.equal(outputs.pooler_output, model(**batch).pooler_output)
    assert not torch.equal(renewed.classifier.weight[:2], model.classifier.weight[:2])


def test_a_model_without_classifier_takes_new_labels_only_on_purpose(model, tmp_path):
    model.whisper_ser.save_pretrained(tmp_path)
    with pytest.raises(MissingWeightsError, match="new_labels"):
        WhisperForEmotionClassification.from_pretrained(tmp_path)
    renewed = WhisperForEmotionClassification.from_pretrained(tmp_path, new_labels=["x", "y"])
    assert torch.equal(renewed.whisper_ser.projector.weight, model.whisper_ser.projector.weight)


@pytest.mark.parametrize("saved_without_classifier", [False, True])
def test_a_model_without_classifier_has_no_labels(model, tmp_path, saved_without_classifier, caplog, monkeypatch):
    (model.whisper_ser if saved_without_classifier else model).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="WhisperSerModel has no classifier.*WhisperForEmotionClassification"):
        WhisperSerModel.from_pretrained(tmp_path, new_labels=["x", "y"])
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    loaded = WhisperSerModel.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert not caplog.records, "a classifier is left out on purpose"
    assert torch.equal(loaded.projector.weight, model.whisper_ser.projector.weight)
    with pytest.raises(MissingWeightsError, match="projector.weight"):
        WhisperSerModel.from_pretrained(tmp_path, d_model=64, ignore_mismatched_sizes=True)


@torch.no_grad()
def test_without_its_encoder_a_model_answers_from_stored_states_alone(model, batch, tmp_path, monkeypatch):
    states, mask = model.whisper_ser.encode(**batch)
    stored = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    monkeypatch.setattr(encoder_whisper_ser, "WhisperEncoderLayer", None)  # building a layer would fail
    without = WhisperForEmotionClassification(model.config, with_encoder=False).eval()
    assert not [name for name, _ in without.named_parameters() if ".encoder." in name]
    without.load_state_dict(model.state_dict(), strict=False)
    close(without(**stored).logits, model(**stored).logits)
    with pytest.raises(ValueError, match="built without its encoder: give it encoder_hidden_states"):
        without(**batch)
    with pytest.raises(ValueError, match="cannot be saved"):
        without.save_pretrained(tmp_path)


@pytest.mark.real
def test_a_base_model_of_three_layers_stores_three_layers(shared, tmp_path):
    model = WhisperForEmotionClassification.from_encoder(shared / "models/whisper-base", LABELS, layer_index=3)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        layers = {key.split(".")[3] for key in weights.keys() if ".layers." in key}  # noqa: SIM118
    assert layers == {"0", "1", "2"}
    # 11.3 million float32 weights; the whole encoder would be 82 MB.
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 46e6
