"""The front end against the stock Whisper extractor."""

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE, speechlike
from transformers import WhisperFeatureExtractor

from modeling_whisper_ser import AudioError, WhisperSerFeatureExtractor

TOLERANCE = 1e-4


def stock(clips: list[np.ndarray], mels: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Returns stock log-mel `(batch, 3000, mels)` of the 30 s window, and its mask."""
    features = WhisperFeatureExtractor(feature_size=mels)(
        clips, sampling_rate=RATE, return_tensors="np", return_attention_mask=True
    )
    return features["input_features"].transpose(0, 2, 1), features["attention_mask"]


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 399, 400, 5000, 16000, 70001, 30 * RATE - 200])
def test_spoken_frames_are_those_of_the_stock_extractor(samples):
    clip = speechlike(31)[:samples]
    ours = WhisperSerFeatureExtractor()(clip, sampling_rate=RATE, return_tensors="np")
    theirs, mask = stock([clip])
    assert ours["input_features"].shape == (1, mask.sum(), 80)
    assert ours["attention_mask"].tolist() == [[1] * mask.sum()]
    assert np.abs(ours["input_features"][0] - theirs[0, : mask.sum()]).max() < TOLERANCE


def test_a_batch_has_each_clip_as_alone_and_a_mask():
    clips = [speechlike(2.0), 0.01 * speechlike(0.5, seed=1), speechlike(1.3, 200)]
    extractor = WhisperSerFeatureExtractor()
    batch = extractor(clips, sampling_rate=RATE, return_tensors="pt")
    assert batch["attention_mask"].sum(1).tolist() == [200, 50, 130]
    for row, clip in enumerate(clips):
        alone = extractor(clip, sampling_rate=RATE, return_tensors="pt")["input_features"][0]
        assert torch.equal(batch["input_features"][row, : len(alone)], alone)
        assert (batch["input_features"][row, len(alone) :] == 0).all()


@pytest.mark.parametrize("seconds", [0.5, 7, 30, 33])
def test_the_papers_setting_is_the_stock_window(seconds):
    clip = speechlike(seconds)
    ours = WhisperSerFeatureExtractor(pad_to_seconds=30)([clip], sampling_rate=RATE, return_tensors="np")
    assert ours["input_features"].shape == (1, 3000, 80)
    assert ours["attention_mask"].all()
    assert np.abs(ours["input_features"] - stock([clip])[0]).max() < TOLERANCE


def test_audio_beyond_30_s_is_not_cut():
    # Silence behind the clip is what the stock extractor needs to agree on the last frames.
    clip = speechlike(95.37)
    theirs = WhisperFeatureExtractor()(
        np.pad(clip, (0, RATE)), sampling_rate=RATE, return_tensors="np", padding="longest", truncation=False
    )["input_features"][0].T
    ours = WhisperSerFeatureExtractor()(clip, sampling_rate=RATE, return_tensors="np")["input_features"][0]
    assert len(ours) == 9537
    assert np.abs(ours - theirs[: len(ours)]).max() < TOLERANCE


def test_128_mel_channels():
    clip = speechlike(1.0)
    ours = WhisperSerFeatureExtractor(feature_size=128)(clip, sampling_rate=RATE, return_tensors="np")
    assert np.abs(ours["input_features"][0] - stock([clip], mels=128)[0][0, :100]).max() < TOLERANCE


def test_silence_gives_finite_features():
    features = WhisperSerFeatureExtractor()(np.zeros(RATE), sampling_rate=RATE, return_tensors="np")
    assert np.isfinite(features["input_features"]).all()


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(8000), 8000, "8000 Hz.*16000 Hz"),
        (np.zeros(0), RATE, "no samples"),
        (np.array([0.0, np.nan, 0.1]), RATE, "NaN"),
        (np.array([0.0, np.inf, 0.1]), RATE, "infinite"),
        (np.zeros((1, 2, 100)), RATE, "mono"),
        (np.zeros((100, 2)), RATE, "samples, channels"),
        (np.zeros(100, dtype=np.int16), RATE, "int16 samples"),
    ],
)
def test_audio_that_cannot_be_used_is_named(audio, rate, message):
    with pytest.raises(AudioError, match=message):
        WhisperSerFeatureExtractor()(audio, sampling_rate=rate)


def test_settings_survive_saving(tmp_path):
    WhisperSerFeatureExtractor(feature_size=128, pad_to_seconds=30).save_pretrained(tmp_path)
    loaded = WhisperSerFeatureExtractor.from_pretrained(tmp_path)
    assert (loaded.feature_size, loaded.pad_to_seconds, loaded.mel_filters.shape) == (128, 30, (201, 128))
    assert "mel_filters" not in (tmp_path / "preprocessor_config.json").read_text()


@pytest.mark.parametrize("seconds", [0, -1, 0.01])
def test_a_window_shorter_than_one_frame_is_refused(seconds):
    with pytest.raises(ValueError, match="pad_to_seconds"):
        WhisperSerFeatureExtractor(pad_to_seconds=seconds)


@pytest.mark.real
def test_real_speech_has_the_stock_features(shared):
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted((shared / "data/emodb4").glob("*.flac"))[:20]]
    batch = WhisperSerFeatureExtractor()(clips, sampling_rate=RATE, return_tensors="np")
    theirs, mask = stock(clips)
    assert (batch["attention_mask"].sum(1) == mask.sum(1)).all()
    for row, frames in enumerate(mask.sum(1)):
        assert np.abs(batch["input_features"][row, :frames] - theirs[row, :frames]).max() < TOLERANCE
