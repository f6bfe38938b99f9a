"""Any waveform gives probabilities that sum to 1, or a typed error: never NaN, never a crash."""

import numpy as np
import pytest
import torch
from conftest import RATE, speechlike
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import whisper_ser
from modeling_whisper_ser import feature_extraction_whisper_ser
from whisper_ser.audio import decoding as audio
from whisper_ser.audio.decoding import decode
from whisper_ser.errors import AudioFileError
from whisper_ser.inference.outputs import Failure

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ANY_FLOATS = st.floats(width=32)


@pytest.fixture(scope="module")
def recognizer(small_model):
    torch.set_num_threads(1)
    return whisper_ser.load_model(small_model, "cpu")


def is_answer(probabilities: np.ndarray) -> bool:
    return bool(np.isfinite(probabilities).all() and abs(probabilities.sum() - 1) < 1e-4)


@given(
    samples=hnp.arrays(np.float32, st.integers(1, 3000), elements=FLOATS, fill=FLOATS),
    scale=st.sampled_from([1.0, 1e-30, 1e-10, 1e6, 1e12]),
)
def test_the_model_answers_to_any_finite_waveform_or_says_why_not(recognizer, tried, samples, scale):
    clip = np.clip(samples, -1e30, 1e30) * np.float32(scale)
    try:
        found = recognizer.probabilities([clip])
    except AudioFileError as error:
        assert np.abs(clip).max() > 1e12, error
    else:
        assert is_answer(found)
    tried(1)


@pytest.mark.parametrize("peak", [1e-45, 1e-20, 1e-3, 1.0, 2.0**15, 2.0**31, 9.9e11])
def test_noise_of_any_loudness_has_an_answer(recognizer, tried, peak):
    for clip in (np.float32(peak) * np.sign(speechlike(0.5)), np.full(8000, peak, np.float32)):
        assert is_answer(recognizer.probabilities([clip]))
        tried(1)


@pytest.mark.parametrize("peak", [1.01e12, 1e17, 1e19, 1e25, 3e38])
def test_what_would_overflow_is_refused_wherever_it_comes_in(recognizer, tried, peak):
    clip = np.float32(peak) * np.sign(speechlike(0.5))
    with pytest.raises(AudioFileError, match="beyond 1e"):
        recognizer.probabilities([clip])
    (result,) = whisper_ser.predict_each([clip], recognizer)
    assert isinstance(result, Failure) and "beyond 1e" in result.reason
    with pytest.raises(AudioFileError, match="beyond 1e"):
        whisper_ser.EmotionStream(recognizer).feed(clip)
    tried(3)


def test_loudness_is_bounded_alike_in_the_model_and_around_it():
    assert audio.LOUDEST == feature_extraction_whisper_ser.MAX_MAGNITUDE


@given(
    samples=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.dtype(">f4"), np.int16, np.uint8, np.complex64, bool]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=900),
        elements=None,
        fill=st.nothing() | st.just(0),
    ),
    rate=st.sampled_from([None, 8000, 16000, 44100, 192000, 0, -1, 1, 16000.5, 10**9, 2**70]),
)
def test_any_array_gives_a_result_or_a_reason(recognizer, tried, samples, rate):
    (result,) = whisper_ser.predict_each([samples], recognizer, sampling_rate=rate)
    if not isinstance(result, Failure):
        assert is_answer(np.array(list(result.probabilities.values())))
    tried(1)


@given(
    samples=hnp.arrays(np.float32, st.tuples(st.integers(1, 4000), st.integers(1, 8)), elements=ANY_FLOATS),
    rate=st.integers(1000, 200_000),
)
def test_decoded_blocks_are_finite_or_refused(tried, samples, rate):
    try:
        blocks = list(decode(samples, "it", RATE, array_rate=rate))
    except AudioFileError:
        pass
    else:
        assert all(np.isfinite(block).all() for block in blocks)
    tried(1)


@given(blocks=st.lists(hnp.arrays(np.float32, st.integers(0, 4000), elements=ANY_FLOATS), max_size=5))
def test_a_stream_of_any_blocks_answers_or_says_why_not(recognizer, tried, blocks):
    stream = whisper_ser.EmotionStream(recognizer)
    try:
        updates = [*map(stream.feed, blocks), stream.finish()]
    except AudioFileError:
        pass
    else:
        spans = [span for update in updates for span in update.windows + update.segments]
        assert all(
            span.probabilities is None or is_answer(np.array(list(span.probabilities.values()))) for span in spans
        )
    tried(1)
