"""Timelines: windows and segments of one pass of the encoder, in agreement with `predict` and with the model."""

import numpy as np
import pytest
import torch
from conftest import RATE, save_small_model, speechlike

import whisper_ser
from whisper_ser.errors import AudioFileError, InferenceError
from whisper_ser.inference.model import load_saved
from whisper_ser.inference.outputs import Span, join_segments
from whisper_ser.inference.streaming import frame_positions


@pytest.fixture(scope="module")
def recognizer(small_model):
    return whisper_ser.load_model(small_model, "cpu")


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    """Speech from 1 to 4 s, 5 to 7 s, and 10 to 19 s of 20 s."""
    audio = np.zeros(20 * RATE, np.float32)
    for start, seconds, pitch in ((1, 3, 90), (5, 2, 250), (10, 9, 130)):
        audio[start * RATE : (start + seconds) * RATE] = speechlike(seconds, pitch)
    return audio


def close(ours: dict[str, float] | None, theirs: dict[str, float] | None, tolerance: float = 1e-5) -> bool:
    assert ours is not None
    assert theirs is not None
    return all(abs(ours[label] - theirs[label]) <= tolerance for label in theirs)


def test_even_cuts_pooled_over_the_whole_are_what_predict_says(recognizer, recording):
    (predicted,) = whisper_ser.predict(recording, recognizer)
    found = whisper_ser.timeline(recording, recognizer, cut="even", window=20)
    assert close(found.whole, predicted.probabilities)
    (window,) = found.windows
    assert (window.start, window.end) == (0, 20)
    assert close(window.probabilities, predicted.probabilities)


@pytest.mark.parametrize("seconds", [10.003, 9.99, 10.011])
def test_a_window_over_everything_says_what_the_whole_says(recognizer, seconds):
    audio = speechlike(seconds)
    for cut in ("pauses", "even"):
        found = whisper_ser.timeline(audio, recognizer, cut=cut, window=seconds)
        (window,) = found.windows
        assert close(window.probabilities, found.whole)
        assert window.end == found.segments[-1].end == pytest.approx(seconds)


@torch.no_grad()
def test_windows_pool_the_frames_that_lie_in_them(small_model, recognizer):
    audio = speechlike(3.0)
    model, extractor = load_saved(small_model)
    features = extractor(audio, return_tensors="pt")
    states = model.eval()(**features, output_hidden_states=True).frame_states
    found = whisper_ser.timeline(audio, recognizer, cut="even", window=1.0, hop=0.4)
    assert [window.start for window in found.windows] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6, 2.0])
    assert [window.end for window in found.windows] == pytest.approx([1.0, 1.4, 1.8, 2.2, 2.6, 3.0])
    for window, first in zip(found.windows, (0, 20, 40, 60, 80, 100), strict=True):
        logits = model(encoder_hidden_states=states[:, :, first : first + 50]).logits[0]
        expected = dict(zip(recognizer.labels, logits.softmax(-1).tolist(), strict=True))
        assert close(window.probabilities, expected)


def test_speech_between_pauses_is_classified_as_the_clip_it_is(recognizer, recording):
    found = whisper_ser.timeline(recording, recognizer)
    speech = [segment for segment in found.segments if segment.label is not None]
    for segment in speech[:2]:
        clip = recording[round(segment.start * RATE) : round(segment.end * RATE)]
        assert close(segment.probabilities, whisper_ser.predict(clip, recognizer)[0].probabilities)


def test_silence_is_marked_and_segments_cover_the_recording(recognizer, recording):
    for cut in ("pauses", "even"):
        found = whisper_ser.timeline(recording, recognizer, cut=cut)
        silences = [(segment.start, segment.end) for segment in found.segments if segment.label is None]
        assert np.allclose(silences, [(0, 1), (4, 5), (7, 10), (19, 20)], atol=0.15)
        assert [segment.start for segment in found.segments] == [0, *(segment.end for segment in found.segments[:-1])]
        assert found.segments[-1].end == found.seconds == 20
        silent = [window.start for window in found.windows if window.probabilities is None]
        # Of 3 s, only that from 7 to 10 s holds no speech; decay and onset belong to speech.
        assert silent == [7.0]


def test_the_encoder_runs_once_and_not_over_silence(recognizer, recording, monkeypatch):
    run, encode = [], recognizer.engine.encode

    def counting(features, lengths):
        run.append(features.shape[0] * features.shape[1] // 2)
        return encode(features, lengths)

    monkeypatch.setattr(recognizer.engine, "encode", counting)
    whisper_ser.timeline(recording, recognizer, window=3.0, hop=0.1)
    spoken = 14 * 50
    # Speech has margins, and chunks of like length are padded to the longest.
    assert spoken <= sum(run) < 1.2 * spoken


def test_silence_alone_has_no_emotion(recognizer):
    found = whisper_ser.timeline(np.zeros(5 * RATE), recognizer)
    assert found.whole is None
    assert found.segments == [Span(0.0, 5.0, None)]
    assert {window.label for window in found.windows} == {None}


def test_short_speech_is_judged_with_what_is_spoken_around_it(recognizer):
    audio = np.zeros(6 * RATE, np.float32)
    audio[RATE : 3 * RATE] = speechlike(2.0, 90)
    audio[int(3.5 * RATE) : int(3.8 * RATE)] = speechlike(0.3, 250)
    near = whisper_ser.timeline(audio, recognizer, window=3.0).segments[3]
    audio[RATE : 3 * RATE] = speechlike(2.0, 200)
    other = whisper_ser.timeline(audio, recognizer, window=3.0).segments[3]
    assert 3.3 < near.start < near.end < 4.0
    assert not close(near.probabilities, other.probabilities, 1e-3)


def test_a_timeline_of_a_channel_is_that_of_its_audio(recognizer, recording):
    two = np.stack([recording, recording[::-1]], axis=1)
    assert whisper_ser.timeline(two, recognizer, channel=2).windows == (
        whisper_ser.timeline(recording[::-1].copy(), recognizer).windows
    )


def test_a_model_that_averages_frames_has_timelines_too(small_checkpoint, tmp_path, recording):
    averaging = whisper_ser.load_model(save_small_model(small_checkpoint, tmp_path, frame_averaging=5), "cpu")
    found = whisper_ser.timeline(recording, averaging, cut="even", window=20)
    assert close(found.windows[0].probabilities, whisper_ser.predict(recording, averaging)[0].probabilities)
    short = whisper_ser.timeline(recording, averaging)
    assert [window.start for window in short.windows if window.probabilities is None] == [7.0]


@torch.no_grad()
@pytest.mark.parametrize("cut", ["pauses", "even"])
def test_windows_of_averaged_frames_pool_the_averages_that_begin_in_them(small_checkpoint, tmp_path, cut):
    folder = save_small_model(small_checkpoint, tmp_path, frame_averaging=5)
    averaging = whisper_ser.load_model(folder, "cpu")
    model, extractor = load_saved(folder)
    # 11 frames: three averages, the last one of a single frame, begin with frames 0, 5 and 10.
    audio = speechlike(0.22)
    states = model(**extractor(audio, return_tensors="pt"), output_hidden_states=True).frame_states
    assert states.shape[2] == 3
    assert frame_positions(3, averaging).tolist() == [0, 5, 10]
    found = whisper_ser.timeline(audio, averaging, cut=cut, window=0.1, hop=0.1)
    assert len(found.windows) == 3
    for number, window in enumerate(found.windows[:2]):
        logits = model(encoder_hidden_states=states[:, :, [number]]).logits[0]
        assert close(window.probabilities, dict(zip(averaging.labels, logits.softmax(-1).tolist(), strict=True)))
    with pytest.raises(InferenceError, match="window=0.08 must be at least 0.1 seconds"):
        whisper_ser.timeline(audio, averaging, window=0.08)


def test_what_no_timeline_can_be_made_of_is_refused(small_checkpoint, recognizer, tmp_path):
    padding = save_small_model(small_checkpoint, tmp_path, pad_to_seconds=30)
    with pytest.raises(InferenceError, match="pads or cuts audio to 30 s"):
        whisper_ser.timeline(speechlike(1.0), padding)
    for name in ("window", "hop"):
        with pytest.raises(InferenceError, match=name):
            whisper_ser.timeline(speechlike(1.0), recognizer, **{name: 0.01})
    with pytest.raises(InferenceError, match="cut"):
        whisper_ser.timeline(speechlike(1.0), recognizer, cut="odd")


@pytest.mark.parametrize("channel", [0, 3, -1, 1.0, True, "left"])
def test_what_is_no_channel_is_refused(recognizer, channel):
    with pytest.raises(AudioFileError, match=f"audio 1 has no channel {channel}: it has 2, counted from 1"):
        whisper_ser.timeline(np.zeros((RATE, 2)), recognizer, channel=channel)


def test_segments_of_one_label_that_touch_are_one():
    pieces = [
        Span(0.0, 1.0, {"a": 0.9, "b": 0.1}),
        Span(1.0, 4.0, {"a": 0.6, "b": 0.4}),
        Span(4.0, 5.0, None),
        Span(5.0, 6.0, None),
        Span(6.0, 7.0, {"a": 0.2, "b": 0.8}),
        Span(7.0, 8.0, {"a": 0.8, "b": 0.2}),
    ]
    joined = join_segments(pieces)
    assert [(span.start, span.end, span.label) for span in joined] == [
        (0.0, 4.0, "a"),
        (4.0, 6.0, None),
        (6.0, 7.0, "b"),
        (7.0, 8.0, "a"),
    ]
    assert joined[0].probabilities == pytest.approx({"a": 0.675, "b": 0.325})
