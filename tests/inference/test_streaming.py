"""A stream says what the timeline of the whole file says, soon, in memory that does not grow."""

import numpy as np
import pytest
import soundfile
from conftest import RATE, speechlike

import whisper_ser
from whisper_ser.errors import AudioFileError
from whisper_ser.inference.outputs import Span, Update, join_segments

TOLERANCE = 1e-4
LATENCY_SECONDS = 6.5


@pytest.fixture(scope="module")
def recognizer(small_model):
    return whisper_ser.load_model(small_model, "cpu")


@pytest.fixture(scope="module")
def ten_minutes() -> np.ndarray:
    """Speech of 0.3 to 15 s between pauses of 0.1 to 4 s, at levels 20 dB apart, in a little noise."""
    rng = np.random.default_rng(0)
    voices = [speechlike(15, pitch, seed=n) for n, pitch in enumerate((90, 130, 180, 250))]
    audio = 0.0003 * rng.standard_normal(600 * RATE).astype(np.float32)
    position = 0
    while position < len(audio):
        voice = voices[rng.integers(4)][: round(rng.uniform(0.3, 15) * RATE)][: len(audio) - position]
        audio[position : position + len(voice)] += 10 ** rng.uniform(-1, 0) * voice
        position += len(voice) + round(rng.uniform(0.1, 4) * RATE)
    return audio


def blocks(audio: np.ndarray, size: int) -> list[np.ndarray]:
    return [audio[begin : begin + size] for begin in range(0, len(audio), size)]


def joined(updates: list[Update]) -> tuple[list[Span], list[Span]]:
    segments = join_segments([span for update in updates for span in update.segments])
    return [span for update in updates for span in update.windows], segments


def same(ours: list[Span], theirs: list[Span]) -> bool:
    assert [(s.start, s.end, s.label) for s in ours] == [(s.start, s.end, s.label) for s in theirs]
    pairs = [
        (one.probabilities[label], other.probabilities[label])
        for one, other in zip(ours, theirs, strict=True)
        if one.probabilities is not None and other.probabilities is not None
        for label in one.probabilities
    ]
    return bool(np.allclose(*zip(*pairs, strict=True), rtol=0, atol=TOLERANCE))


def test_ten_minutes_in_blocks_of_100_ms_give_the_timeline_of_the_file_in_time(recognizer, ten_minutes, tmp_path):
    soundfile.write(tmp_path / "a.wav", ten_minutes, RATE, subtype="FLOAT")
    offline = whisper_ser.timeline(tmp_path / "a.wav", recognizer)
    stream = whisper_ser.EmotionStream(recognizer)
    updates, told, behind, kept = [], 0.0, 0.0, 0
    for block in blocks(ten_minutes, RATE // 10):
        updates.append(stream.feed(block))
        told = updates[-1].windows[-1].end if updates[-1].windows else told
        # The next window ends one hop behind the last; it may be told when its end was fed.
        behind = max(behind, stream.seconds - (told + 0.5 if told else 3.0))
        kept = max(kept, len(stream._chunker._audio) + RATE // 50 * len(stream._pooling._vectors))
    updates.append(stream.finish())
    windows, segments = joined(updates)
    assert same(windows, offline.windows)
    assert same(segments, offline.segments)
    assert len(segments) > 80
    assert behind <= LATENCY_SECONDS
    assert kept < 20 * RATE


@pytest.mark.parametrize(("rate", "size"), [(44100, 4410), (8000, 333)])
def test_blocks_of_other_rates_and_channels_give_the_timeline_of_their_file(recognizer, tmp_path, rate, size):
    audio = np.stack([speechlike(24), speechlike(24, 200)], axis=1)
    audio[len(audio) // 2 : len(audio) // 2 + rate] = 0
    soundfile.write(tmp_path / "a.wav", audio, rate, subtype="FLOAT")
    offline = whisper_ser.timeline(tmp_path / "a.wav", recognizer)
    windows, segments = joined(list(whisper_ser.stream(blocks(audio, size), recognizer, rate)))
    assert segments[-1].end == pytest.approx(offline.segments[-1].end, abs=1e-3)
    assert same(windows[:-1], offline.windows[:-1])
    assert same(segments[:-1], offline.segments[:-1])


def test_the_iterator_tells_before_the_stream_ends(recognizer, ten_minutes):
    fed = []

    def microphone():
        for block in blocks(ten_minutes[: 60 * RATE], RATE // 10):
            fed.append(len(block))
            yield block

    first = next(iter(whisper_ser.stream(microphone(), recognizer)))
    assert first.windows or first.segments
    assert sum(fed) < 10 * RATE


def test_an_empty_stream_has_nothing_to_tell(recognizer):
    assert list(whisper_ser.stream([], recognizer)) == [Update()]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.zeros(1600, np.int16), "a block int16"),
        (np.zeros((2, 2, 2)), r"a block float64 \(2, 2, 2\)"),
        (np.zeros((1600, 0)), r"a block float64 \(1600, 0\)"),
        (np.full(1600, np.nan), "samples that are NaN or infinite"),
    ],
)
def test_blocks_that_are_no_audio_are_refused(recognizer, block, message):
    with pytest.raises(AudioFileError, match=f"the stream has {message}"):
        whisper_ser.EmotionStream(recognizer).feed(block)
