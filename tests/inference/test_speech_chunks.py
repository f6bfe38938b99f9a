"""Speech is found against a recording's own level, and cut at pauses and quiet moments, the same in any blocks."""

import numpy as np
import pytest
from conftest import RATE, speechlike

from whisper_ser.inference.chunks import Chunk, Chunker

FRAME = RATE // 50


def chunks_of(audio: np.ndarray, block: int = RATE, longest: int = 200) -> list[Chunk]:
    chunker = Chunker(longest, RATE)
    found = [chunk for i in range(0, len(audio), block) for chunk in chunker.feed(audio[i : i + block])]
    return found + chunker.finish()


def stretches(chunks: list[Chunk]) -> list[tuple[float, float]]:
    """Returns where there is speech, in seconds, chunks that touch made one."""
    found: list[list[float]] = []
    for chunk in chunks:
        if chunk.audio is not None:
            if found and found[-1][1] == chunk.start / 50:
                found[-1][1] = chunk.end / 50
            else:
                found.append([chunk.start / 50, chunk.end / 50])
    return [(start, end) for start, end in found]


def spoken(*parts: float, noise: float = 0.0) -> np.ndarray:
    """Returns audio of alternately so many seconds of silence and of speech."""
    pieces = [
        speechlike(seconds, seed=n) if n % 2 else np.zeros(round(seconds * RATE), np.float32)
        for n, seconds in enumerate(parts)
    ]
    audio = np.concatenate(pieces)
    return audio + noise * np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)


@pytest.mark.parametrize("gain", [1.0, 0.05])
@pytest.mark.parametrize("noise", [0.0, 0.002])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_speech_is_found_whatever_its_level_and_the_noise_around_it(gain, noise, offset):
    found = stretches(chunks_of(gain * spoken(2, 1.5, 0.6, 2, 12, 1, 0.5, noise=noise) + offset))
    assert np.allclose(found, [(2, 3.5), (4.1, 6.1), (18.1, 19.1)], atol=0.18)


def test_a_pause_shorter_than_three_tenths_of_a_second_is_none():
    assert len(stretches(chunks_of(spoken(1, 1.5, 0.2, 1.5, 1)))) == 1
    assert len(stretches(chunks_of(spoken(1, 1.5, 0.4, 1.5, 1)))) == 2


@pytest.mark.parametrize(("below_loudest", "stretches_heard"), [(33, 1), (36.5, 1), (40, 2)])
def test_speech_goes_on_at_levels_that_would_not_begin_it(below_loudest, stretches_heard):
    tone = np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE).astype(np.float32)
    soft = 10 ** (-below_loudest / 20) * tone
    silence = np.zeros(2 * RATE, np.float32)
    found = stretches(chunks_of(np.concatenate([silence, tone, soft, tone, silence])))
    assert len(found) == stretches_heard
    # Alone behind a pause, what is 35 dB below the loudest begins nothing.
    alone = stretches(chunks_of(np.concatenate([silence, tone, silence, soft, silence])))
    assert len(alone) == (2 if below_loudest < 35 else 1)


def test_a_click_is_no_speech():
    audio = spoken(1, 1.5, 3)
    audio[4 * RATE] = 0.9
    assert np.allclose(stretches(chunks_of(audio)), [(1, 2.5)], atol=0.15)


def test_the_noise_of_a_room_is_no_speech():
    noise = 0.002 * np.random.default_rng(1).standard_normal(8 * RATE).astype(np.float32)
    assert stretches(chunks_of(noise)) == []
    assert stretches(chunks_of(np.zeros(8 * RATE, np.float32))) == []


def test_chunks_follow_each_other_without_gaps_and_hold_their_audio():
    audio = spoken(0.3, 13.7, 1, 2, 0.5, 5.2, 0.013)
    chunks = chunks_of(audio)
    assert [chunk.start for chunk in chunks] == [0, *(chunk.end for chunk in chunks[:-1])]
    assert chunks[-1].end == len(audio) // FRAME
    for chunk in chunks:
        if chunk.audio is not None:
            assert np.array_equal(chunk.audio, audio[chunk.start * FRAME : chunk.end * FRAME])


@pytest.mark.parametrize("seconds", [4.4, 5.5, 7.9, 9.3, 30.0])
def test_no_chunk_of_long_speech_is_longer_than_allowed_or_a_mere_rest(seconds):
    lengths = [chunk.end - chunk.start for chunk in chunks_of(spoken(0, seconds)) if chunk.audio is not None]
    assert len(lengths) > 1
    assert max(lengths) <= 200
    assert min(lengths) >= 50


def test_speech_without_pause_is_cut_at_its_quietest_moment():
    audio = spoken(0, 6)
    # A dip too short for a pause; speech goes on for more than a second behind the longest chunk.
    audio[int(2.95 * RATE) : int(3.05 * RATE)] *= 0.03
    first = chunks_of(audio)[0]
    assert first.end / 50 == pytest.approx(3.0, abs=0.04)


@pytest.mark.parametrize("frames", range(230, 262, 2))
def test_speech_about_as_long_as_is_cut_is_cut_the_same_whatever_the_blocks(frames):
    audio = spoken(0.5, frames / 50, 2.5)
    assert [chunk[:2] for chunk in chunks_of(audio, 320)] == [chunk[:2] for chunk in chunks_of(audio, 10**9)]


@pytest.mark.parametrize("block", [160, 1600, 7919, 10**9])
def test_chunks_are_the_same_whatever_the_blocks(block):
    audio = spoken(0.7, 5.2, 0.5, 4.6, 11, 21.3, 0.35, 2, 0.25, 3, noise=0.001)
    assert [chunk[:2] for chunk in chunks_of(audio, block)] == [chunk[:2] for chunk in chunks_of(audio)]
