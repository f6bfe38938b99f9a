"""The packed encoder against the plain one, and its integers against integers."""

import numpy as np
import pytest
import torch
from conftest import RATE, speechlike
from torch import nn

from modeling_whisper_ser import PackingError, WhisperForEmotionClassification, WhisperSerFeatureExtractor
from modeling_whisper_ser.packed_encoder_whisper_ser import (
    STEPS,
    Scale,
    _IntegerProduct,
    _Norm,
    activation_ranges,
    pack,
    rounded_up,
    typical_voices,
)
from whisper_ser.audio.decoding import read_audio
from whisper_ser.inference.speed import optimised

integers = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this processor has no AVX-512 VNNI")
PRECISIONS = ["float32", pytest.param("int8", marks=integers)]


def model_of(checkpoint, **fields) -> WhisperForEmotionClassification:
    torch.manual_seed(0)
    return WhisperForEmotionClassification.from_encoder(checkpoint, ["a", "b", "c"], **fields).eval()


def features_of(clips, **kwargs):
    return WhisperSerFeatureExtractor()(clips, sampling_rate=RATE, return_tensors="pt", **kwargs)


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# Odd and even numbers of mel frames, several chunks of lengths that differ by one, two clips of one length.
LENGTHS = (0.01, 0.73, 3.999, 4.01, 11.11, 0.73)


@torch.inference_mode()
@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("seconds", [*LENGTHS, LENGTHS])
def test_packed_float32_has_the_states_of_the_plain_encoder(small_checkpoint, layer, seconds):
    model = model_of(small_checkpoint, layer_index=layer)
    clips = [speechlike(length, seed=i) for i, length in enumerate(np.atleast_1d(seconds))]
    features = features_of(clips)
    features["input_features"][features["attention_mask"] == 0] = float("nan")
    theirs, mask = model.whisper_ser.encode(**features)
    ours, our_mask = model.packed().whisper_ser.encode(**features)
    assert torch.equal(mask, our_mask)
    assert relative_difference(ours, theirs) < 1e-5


@torch.inference_mode()
def test_every_layer_can_be_read(small_checkpoint):
    model, features = model_of(small_checkpoint, layer_index=3), features_of(speechlike(1))
    packed = model.packed()
    with model.whisper_ser.encoder.reading([1, 2, 3]), packed.whisper_ser.encoder.reading([1, 2, 3]):
        theirs, ours = model.whisper_ser.encode(**features)[0], packed.whisper_ser.encode(**features)[0]
    assert ours.shape == (1, 3, 50, 32)
    for layer in range(3):
        assert relative_difference(ours[:, layer], theirs[:, layer]) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_clip_in_a_batch_has_the_answer_it_has_alone(small_checkpoint, precision):
    packed = model_of(small_checkpoint, layer_index=3).packed(precision)
    clips = [speechlike(length, seed=i) for i, length in enumerate(LENGTHS)]
    together = packed(**features_of(clips)).logits
    alone = torch.cat([packed(**features_of(clip)).logits for clip in clips])
    assert (together - alone).abs().max() < 1e-5


@integers
@torch.inference_mode()
def test_int8_changes_what_a_layer_adds_by_a_percent(small_checkpoint):
    encoder = model_of(small_checkpoint, layer_index=1).whisper_ser.encoder
    features = features_of([speechlike(length, seed=i) for i, length in enumerate(LENGTHS)])
    packed = pack(encoder, "int8")
    below, plain = [], encoder.layers[0]
    plain.register_forward_pre_hook(lambda _, inputs: below.append(inputs[0]))
    encoder(**features_of(speechlike(2)))
    hidden, frames = below[0][0], [len(below[0][0])]
    assert rounded_up(len(hidden)) > len(hidden)
    theirs = plain(below[0], None)[0] - hidden
    ours = packed._blocks[0](nn.functional.pad(hidden, (0, 0, 0, 4)), frames)[: len(hidden)] - hidden
    difference = ours - theirs
    assert 1e-4 < difference.norm() / theirs.norm() < 0.02
    # Numbers that were cut off instead of rounded would all be off to one side.
    assert difference.mean().abs() < 0.1 * difference.square().mean().sqrt()
    states, expected = packed(**features)[0], encoder(**features)[0]
    assert (states - expected).norm() / expected.norm() < 0.01


@integers
@torch.inference_mode()
def test_int8_attention_is_off_by_a_percent(small_checkpoint):
    encoder = model_of(small_checkpoint, layer_index=1).whisper_ser.encoder
    plain, below = encoder.layers[0], []
    # In a small random encoder they would drown what the weights say.
    plain.self_attn.v_proj.bias.zero_()
    plain.self_attn.out_proj.bias.zero_()
    block = pack(encoder, "int8")._blocks[0]
    plain.register_forward_pre_hook(lambda _, inputs: below.append(inputs[0]))
    encoder(**features_of(speechlike(2)))
    hidden = below[0][0]
    theirs = plain.self_attn(plain.self_attn_layer_norm(below[0]))[0][0]
    attended = block._attended(block.qkv(block.attention_norm(hidden)), [len(hidden)])[: len(hidden)]
    ours = block.out.added(block.joined(attended), torch.zeros_like(hidden))
    assert (ours - theirs).norm() / theirs.norm() < 0.03


@torch.inference_mode()
def test_a_norm_with_a_scale_gives_the_nearest_integers():
    torch.manual_seed(0)
    norm, x, scale = nn.LayerNorm(16), torch.randn(50, 16), Scale(gain=40.0, zero=120)
    norm.bias.uniform_(-1, 1)
    expected = (norm(x) * 40 + 120).round().clamp(0, 255)
    ours = _Norm(norm, scale)(x)
    assert ours.dtype == torch.uint8
    assert (ours == expected).double().mean() > 0.995


@integers
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("into", [None, Scale.of(-1, 8)])
def test_an_integer_product_is_that_of_integers(gelu, into):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(24, 16)).astype(np.float32), rng.normal(size=24).astype(np.float32)
    x, residual = rng.integers(0, 256, (7, 16), dtype=np.uint8), rng.normal(size=(7, 24)).astype(np.float32)
    given = Scale(gain=32.0, zero=100)
    product = _IntegerProduct(torch.from_numpy(weight), torch.from_numpy(bias), given, gelu, into)
    steps = np.abs(weight).max(1) / 127
    sums = (x.astype(int) - 100) @ np.rint(weight / steps[:, None]).astype(int).T
    expected = torch.from_numpy(sums / 32.0 * steps + bias)
    if not gelu and into is None:
        added = product.added(torch.from_numpy(x), torch.from_numpy(residual))
        assert torch.allclose(added.double(), expected + torch.from_numpy(residual), atol=1e-4)
    expected = nn.functional.gelu(expected) if gelu else expected
    ours = product(torch.from_numpy(x))
    if into is None:
        assert torch.allclose(ours.double(), expected, atol=1e-4)
    else:
        expected = (expected * STEPS / 9 + 28).round().clamp(0, 255)
        assert ours.dtype == torch.uint8
        assert (ours - expected).abs().max() <= 1
        assert (ours == expected).double().mean() > 0.98


def test_lengths_share_few_numbers_of_rows_and_waste_little():
    assert rounded_up(200) == 200
    assert all(rows <= rounded_up(rows) <= max(rows + 7, 1.04 * rows) for rows in range(1, 16000))
    assert len({rounded_up(rows) for rows in range(1, 201)}) == 25
    assert len({rounded_up(rows) for rows in range(1, 16000)}) < 300


def test_a_scale_has_its_ends_and_zero_among_the_integers():
    scale = Scale.of(-2.0, 6.0)
    assert scale.zero == 64
    assert [round(x * scale.gain + scale.zero) for x in (-2.0, 0.0, 6.0)] == [0, 64, 255]
    assert Scale.of(1.0, 3.0).zero == 0


def test_the_given_model_stays_as_it_is(small_checkpoint):
    model = model_of(small_checkpoint, unfreeze_last_n=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    packed = model.packed()
    assert packed is not model and packed.config.unfreeze_last_n == 0
    packed.classifier.weight.data.zero_()
    assert model.config.unfreeze_last_n == 1
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_packed_model_is_neither_saved_nor_moved(small_checkpoint, tmp_path):
    packed = model_of(small_checkpoint).packed()
    with pytest.raises(PackingError, match="save the model that it was made of"):
        packed.save_pretrained(tmp_path)
    with pytest.raises(PackingError, match="stays float32"):
        packed.half()
    with pytest.raises(PackingError, match="stays float32"):
        packed.to("meta")
    packed.to("cpu").float().train().eval()


def test_what_cannot_be_packed_is_told(small_checkpoint, monkeypatch):
    model = model_of(small_checkpoint)
    with pytest.raises(PackingError, match="'float32', 'int8'"):
        optimised(model, "int4")
    with pytest.raises(PackingError, match="expected float32"):
        model_of(small_checkpoint).half().packed()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(PackingError, match="VNNI"):
        optimised(model, "int8")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(PackingError, match="oneDNN"):
        model.packed()


def test_where_nothing_can_be_packed_the_plain_model_answers(small_checkpoint, monkeypatch):
    model = model_of(small_checkpoint)
    assert optimised(model) is not model
    half = model_of(small_checkpoint).half().train()
    assert optimised(half) is half and not half.training
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert optimised(model) is model


@integers
def test_ranges_hold_what_enters_each_product(small_checkpoint):
    encoder = model_of(small_checkpoint, layer_index=1).whisper_ser.encoder
    clips = [features_of(speechlike(1, seed=seed))["input_features"][0] for seed in range(2)]
    seen = []
    encoder.layers[0].fc2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for clip in clips:
            encoder(clip[None])
    ranges = activation_ranges(encoder, clips, margin=2.0)
    values = 2 * torch.cat(seen, dim=1)[0]
    assert torch.allclose(ranges["layers.0.fc2"].lowest, values.amin(0))
    assert torch.allclose(ranges["layers.0.fc2"].highest, values.amax(0))
    assert {name.split(".", 2)[-1] for name in ranges} >= {"conv2", "self_attn.q_proj", "self_attn.out_proj", "fc1"}


@pytest.mark.real
@torch.inference_mode()
def test_whisper_base_answers_alike_packed_and_plain(shared):
    clips = [read_audio(path) for path in sorted((shared / "data/emodb4").glob("*.flac"))[:40:8]]
    for layer in (3, 6):
        model = model_of(shared / "models/whisper-base", layer_index=layer)
        model.whisper_ser.standardisation.fit(model.whisper_ser.encode(**features_of(clip))[0][0] for clip in clips)
        plain, packed = (each(**features_of(clips)).logits.softmax(-1) for each in (model, model.packed()))
        assert (plain - packed).abs().max() < 1e-4


@integers
@pytest.mark.real
def test_real_speech_seldom_leaves_the_ranges_of_synthetic_voices(shared):
    encoder = model_of(shared / "models/whisper-base", layer_index=6).whisper_ser.encoder
    voices = [features_of(clip)["input_features"][0] for clip in typical_voices(RATE)]
    ranges = activation_ranges(encoder, voices, margin=1.25)
    outside, all_of_them = 0, 0

    def count(name):
        def hook(_, inputs):
            nonlocal outside, all_of_them
            least, greatest = ranges[name].lowest.min(), ranges[name].highest.max()
            outside += int(((inputs[0] < least) | (inputs[0] > greatest)).sum())
            all_of_them += inputs[0].numel()

        return hook

    for name, module in encoder.named_modules():
        if name in ranges:
            module.register_forward_pre_hook(count(name))
    with torch.no_grad():
        for path in sorted((shared / "data/emodb4").glob("*.flac"))[:60:6]:
            encoder(**features_of(read_audio(path)))
    assert all_of_them > 1e7
    assert outside / all_of_them < 1e-4
