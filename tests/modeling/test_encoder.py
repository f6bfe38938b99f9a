"""The cut, chunked, masked encoder against the stock one."""

import copy

import pytest
import soundfile
import torch
from conftest import RATE, speechlike
from transformers import WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from modeling_whisper_ser.encoder_whisper_ser import even_chunks


def encoder_of(checkpoint, **fields):
    return WhisperForEmotionClassification.from_encoder(checkpoint, ["a", "b"], **fields).eval().whisper_ser.encoder


def stock_states(encoder: WhisperEncoder, mel: torch.Tensor) -> list[torch.Tensor]:
    """Returns stock hidden states, embeddings first, of `mel` `(mel_frames, mels)`, any even length up to 30 s."""
    config = copy.deepcopy(encoder.config)
    config.max_source_positions = len(mel) // 2
    short = WhisperEncoder(config).eval()
    weights = encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][: len(mel) // 2]
    short.load_state_dict(weights)
    with torch.no_grad():
        return [state[0] for state in short(mel.T[None], output_hidden_states=True).hidden_states]


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
def check_every_layer_on_a_30_s_window(checkpoint, stock: WhisperEncoder, clip) -> None:
    mel = WhisperFeatureExtractor()(clip, sampling_rate=RATE, return_tensors="pt")["input_features"]
    theirs = stock(mel, output_hidden_states=True).hidden_states
    features = WhisperSerFeatureExtractor(pad_to_seconds=30)(clip, sampling_rate=RATE, return_tensors="pt")
    for layer in range(1, stock.config.encoder_layers + 1):
        states, mask = encoder_of(checkpoint, layer_index=layer, chunk_seconds=30)(**features)
        assert mask.all()
        assert relative_difference(states[0, 0], theirs[layer][0]) < 1e-4, f"layer {layer}"


def test_every_layer_equals_the_stock_encoder_on_a_30_s_window(small_checkpoint, small_whisper):
    check_every_layer_on_a_30_s_window(small_checkpoint, small_whisper.encoder, speechlike(3))


@pytest.mark.real
def test_every_layer_of_whisper_base_equals_the_stock_encoder_on_real_speech(shared):
    clip = soundfile.read(shared / "data/emodb4/03a01Wa.flac", dtype="float32")[0]
    whisper = WhisperModel.from_pretrained(shared / "models/whisper-base", dtype=torch.float32).eval()
    check_every_layer_on_a_30_s_window(shared / "models/whisper-base", whisper.encoder, clip)


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_each_chunk_is_what_the_stock_encoder_makes_of_it_alone(small_checkpoint, small_whisper, layer):
    features = WhisperSerFeatureExtractor()(speechlike(9.7), sampling_rate=RATE, return_tensors="pt")
    states, mask = encoder_of(small_checkpoint, layer_index=layer, chunk_seconds=4)(**features)
    assert mask.shape == (1, 485)
    mel, begin = features["input_features"][0], 0
    for frames in (162, 162, 161):  # 485 encoder frames in the fewest even chunks of at most 200
        theirs = stock_states(small_whisper.encoder, mel[2 * begin : 2 * (begin + frames)])[layer]
        assert relative_difference(states[0, 0, begin : begin + frames], theirs) < 1e-5
        begin += frames


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_clip_in_a_mixed_batch_has_the_states_it_has_alone(small_checkpoint, attention):
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, layer_index=2)
    model.set_attn_implementation(attention)
    encoder = model.eval().whisper_ser.encoder
    assert encoder.layers[0].self_attn.config._attn_implementation == attention
    extractor = WhisperSerFeatureExtractor()
    # Odd and even numbers of mel frames, one chunk and several, one mel frame.
    clips = [speechlike(seconds, seed=i) for i, seconds in enumerate((0.01, 0.73, 3.999, 4.01, 11.11, 2.0))]
    batch = extractor(clips, sampling_rate=RATE, return_tensors="pt")
    # Whatever stands behind a clip, nothing of it may be read.
    batch["input_features"][batch["attention_mask"] == 0] = float("nan")
    states, mask = encoder(**batch)
    assert torch.isfinite(states).all()
    for row, clip in enumerate(clips):
        alone, _ = encoder(**extractor(clip, sampling_rate=RATE, return_tensors="pt"))
        frames = alone.shape[2]
        assert mask[row].tolist() == [True] * frames + [False] * (mask.shape[1] - frames)
        assert relative_difference(states[row, :, :frames], alone[0]) < 1e-5
        assert (states[row, :, frames:] == 0).all()


def test_chunks_are_few_even_and_complete():
    for frames in range(1, 700):
        chunks = even_chunks(frames, 200)
        assert len(chunks) == -(-frames // 200)
        assert [start for start, _ in chunks] == [sum(n for _, n in chunks[:i]) for i in range(len(chunks))]
        sizes = [size for _, size in chunks]
        assert sum(sizes) == frames and max(sizes) <= 200 and max(sizes) - min(sizes) <= 1


def test_long_audio_is_run_in_bounded_passes(small_checkpoint, monkeypatch):
    encoder = encoder_of(small_checkpoint, layer_index=1)
    seen = []
    run = encoder.encode_chunks

    def counting(features, lengths=None):
        seen.append(features.shape[0] * features.shape[1])
        return run(features, lengths)

    monkeypatch.setattr(encoder, "encode_chunks", counting)
    with torch.no_grad():
        states, _ = encoder(torch.zeros(1, 6 * 60 * 100, 80))
    assert states.shape == (1, 1, 6 * 60 * 50, 32)
    assert len(seen) == 3 and max(seen) <= 2 * 8000


@pytest.mark.parametrize(
    ("features", "mask", "message"),
    [
        (torch.zeros(1, 80, 100), None, "time first"),
        (torch.zeros(100, 80), None, "time first"),
        (torch.zeros(1, 0, 80), None, "time first"),
        (torch.zeros(0, 100, 80), None, "time first"),
        (torch.zeros(2, 100, 80), torch.ones(2, 99), "each mel frame"),
        (torch.zeros(1, 4, 80), torch.tensor([[0, 0, 0, 0]]), "real frame in every clip"),
        (torch.zeros(1, 4, 80), torch.tensor([[1, 1, 0, 1]]), "behind padding"),
    ],
)
def test_inputs_of_wrong_shape_are_refused(small_checkpoint, features, mask, message):
    with pytest.raises(ValueError, match=message):
        encoder_of(small_checkpoint)(features, mask)


def test_only_the_layers_read_exist(small_checkpoint):
    assert len(encoder_of(small_checkpoint, layer_index=2).layers) == 2
    assert encoder_of(small_checkpoint, layer_index=2).layer_norm is None
    assert encoder_of(small_checkpoint, layer_index=3).layer_norm is not None


@torch.no_grad()
def test_averaged_frames_are_means_of_each_clips_own_frames(small_checkpoint):
    clips = [speechlike(1.0), speechlike(2.61, 200, seed=1)]
    batch = WhisperSerFeatureExtractor()(clips, sampling_rate=RATE, return_tensors="pt")
    every, mask = encoder_of(small_checkpoint)(**batch)
    averaged, averaged_mask = encoder_of(small_checkpoint, frame_averaging=4)(**batch)
    assert mask.sum(1).tolist() == [50, 131] and averaged_mask.sum(1).tolist() == [13, 33]
    for row, count in enumerate((50, 131)):
        for frame, start in enumerate(range(0, count, 4)):
            expected = every[row, :, start : min(start + 4, count)].mean(1)
            assert torch.allclose(averaged[row, :, frame], expected, atol=1e-5)
