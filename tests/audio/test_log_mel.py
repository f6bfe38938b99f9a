"""Log-mel in NumPy is that of the feature extractor, and of the stock one, however the audio comes."""

import numpy as np
import pytest
from conftest import RATE, speechlike
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import hertz_to_mel as stock_hertz_to_mel
from transformers.audio_utils import mel_filter_bank

from modeling_whisper_ser import WhisperSerFeatureExtractor
from modeling_whisper_ser.configuration_whisper_ser import FRAMES_PER_SECOND as OF_THE_MODEL
from whisper_ser.audio.log_mel import FRAMES_PER_SECOND, LogMel, hertz_to_mel, mel_filters
from whisper_ser.errors import AudioFileError

# Shorter than half a frame, than a frame, on and beside the hop, longer than a block.
SECONDS = (0.005, 0.02, 0.0251, 0.73, 1.0, 3.999, 11.11)


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("mels", [80, 128])
def test_it_is_what_both_extractors_compute(seconds, mels):
    clip = speechlike(seconds)
    found = LogMel(mels)(clip)
    ours = WhisperSerFeatureExtractor(feature_size=mels)(clip, return_tensors="np")["input_features"][0]
    assert found.dtype == np.float32
    assert found == pytest.approx(ours, abs=1e-4)
    if seconds > 0.0125:  # the stock one pads with zeros before it mirrors
        stock = WhisperFeatureExtractor(feature_size=mels)(clip, sampling_rate=RATE, return_tensors="np")
        assert found == pytest.approx(stock["input_features"][0].T[: len(found)], abs=1e-4)


@pytest.mark.parametrize("seconds", [0.02, 2.0, 40.0])
@pytest.mark.parametrize("pad_to_seconds", [30, 5.0])
def test_a_window_is_what_the_extractor_pads_and_cuts(seconds, pad_to_seconds):
    clip = speechlike(seconds)
    ours = WhisperSerFeatureExtractor(pad_to_seconds=pad_to_seconds)(clip, return_tensors="np")["input_features"][0]
    assert LogMel(pad_to_seconds=pad_to_seconds)(clip) == pytest.approx(ours, abs=1e-4)


@pytest.mark.parametrize("size", [37, 160, 200, 401, 16000])
@pytest.mark.parametrize("seconds", [0.0101, 0.02, 3.3])
def test_blocks_give_what_the_whole_gives(size, seconds):
    clip = speechlike(seconds)
    blocks = [clip[begin : begin + size] for begin in range(0, len(clip), size)]
    for settings in (LogMel(), LogMel(pad_to_seconds=2.0)):
        assert np.array_equal(settings.of_blocks(iter(blocks)), settings(clip))


def test_other_settings_are_obeyed():
    clip = speechlike(0.6)
    settings = {"feature_size": 64, "sampling_rate": 8000, "hop_length": 100, "n_fft": 256}
    ours = WhisperSerFeatureExtractor(**settings)(clip, return_tensors="np")["input_features"][0]
    assert LogMel(**settings)(clip) == pytest.approx(ours, abs=1e-4)


def test_filters_are_those_of_transformers():
    stock = mel_filter_bank(201, 80, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
    assert mel_filters(400, 80, RATE) == pytest.approx(stock, abs=1e-12)
    for hertz in (0.0, 440.0, 1000.0, 6543.2):
        assert hertz_to_mel(hertz) == pytest.approx(stock_hertz_to_mel(hertz, mel_scale="slaney"))


def test_filters_narrower_than_a_bin_hear_nothing():
    clip = speechlike(0.3)
    ours = WhisperSerFeatureExtractor(feature_size=300)(clip, return_tensors="np")["input_features"][0]
    assert LogMel(300)(clip) == pytest.approx(ours, abs=1e-4)


def test_frames_per_second_are_the_models():
    assert FRAMES_PER_SECOND == OF_THE_MODEL


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros((2, 100), np.float32),
        np.zeros(0, np.float32),
        np.zeros(100, np.int16),
        np.full(100, np.nan, np.float32),
        np.full(100, 1e13),
    ],
)
def test_what_is_no_audio_is_refused(clip):
    with pytest.raises(AudioFileError, match="The audio"):
        LogMel()(clip)
