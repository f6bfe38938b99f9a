"""Voice activity by level, without a model, on audio that arrives in blocks.

The level of each 20 ms frame is compared with the loudest and the quietest level of ten seconds, of which one second
lies ahead. Two thresholds (hysteresis) turn levels into stretches of speech. No frame further ahead is used, so a
stream and the whole file give the same stretches.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

LOOKAHEAD = 50
"""Frames (1 s) that must be known beyond the one being judged: a recording may begin with speech at any level."""
MEMORY = 500
"""Frames (10 s) over which the loudest and the quietest level are taken."""
SMOOTHING = 5
"""Frames (100 ms) over which the power is averaged."""
BELOW_TOP, ABOVE_FLOOR, LEAST_BELOW_TOP = 35.0, 9.0, 15.0
"""Decibels. Speech is above the loudest level - 35 dB and above the quietest + 9 dB; the latter counts as at most the
loudest - 15 dB."""
HYSTERESIS = 3.0
"""Decibels by which the level may fall below the threshold while speech goes on."""
MIN_SPEECH_LEVEL = -65.0
"""Decibels relative to full scale."""
NOISE_RANGE, NOISE_MAX_LEVEL = 12.0, -45.0
"""Decibels. Audio whose levels stay within 12 dB and below -45 dB of full scale is room noise."""
MIN_SPEECH, MIN_PAUSE = 8, 15
"""Frames: 0.16 s above the threshold start speech (a smoothed click lasts 0.1 s), 0.3 s below it start a pause."""
MARGIN = 5
"""Frames (0.1 s) before and after speech that are kept with it."""
MIN_LEVEL = -100.0


class Event(NamedTuple):
    """A frame at which speech begins (`speech=True`) or ends."""

    frame: int
    speech: bool


class SpeechDetector:
    """Finds where speech begins and ends, from the powers of frames as they arrive.

    `levels` holds the smoothed levels (decibels relative to full scale) of the frames from `first` on, at least ten
    seconds back. Frames before `settled` are known to be speech or not.
    """

    def __init__(self) -> None:
        self.levels = np.empty(0)
        self.first = 0
        self._judged = 0
        self._powers = np.empty(0)
        self._speaking = False
        self._run = 0  # consecutive loud frames in silence, or quiet frames in speech
        self._last_end = 0

    @property
    def settled(self) -> int:
        if self._speaking:
            return self._judged - self._run
        return max(self._last_end, self._judged - self._run - MARGIN)

    def feed(self, powers: np.ndarray) -> list[Event]:
        """Returns the events that are certain after the next frames, given as mean squares `(frames,)`."""
        self._append(powers)
        return self._judge(self.first + len(self.levels) - LOOKAHEAD)

    def finish(self) -> list[Event]:
        """Returns the events that are certain because the recording ends."""
        self._append(np.repeat(self._powers[-1:], SMOOTHING // 2))
        end = self.first + len(self.levels)
        events = self._judge(end)
        if self._speaking:
            events.append(Event(end, False))
        self._speaking, self._run, self._last_end = False, 0, end
        return events

    def _append(self, powers: np.ndarray) -> None:
        if not len(self._powers):
            # The time before the recording counts as loud as its first frame.
            self._powers = np.repeat(powers[:1], SMOOTHING // 2)
        self._powers = np.concatenate([self._powers, powers])
        if len(self._powers) >= SMOOTHING:
            means = np.convolve(self._powers, np.full(SMOOTHING, 1 / SMOOTHING), "valid")
            self._powers = self._powers[len(means) :]
            self.levels = np.concatenate([self.levels, 10 * np.log10(means + 10 ** (MIN_LEVEL / 10))])

    def _judge(self, end: int) -> list[Event]:
        if end <= self._judged:
            return []
        levels = self.levels[self._judged - self.first : end - self.first]
        events = [event for frame in zip(levels, self._thresholds(end), strict=True) for event in self._step(*frame)]
        stale = max(0, self._judged - MEMORY - self.first)
        self.levels, self.first = self.levels[stale:], self.first + stale
        return events

    def _thresholds(self, end: int) -> np.ndarray:
        """Returns the level above which speech begins, for each frame from the first unjudged one up to `end`."""
        known = self.first + len(self.levels)
        ahead = [min(frame + LOOKAHEAD, known - 1) + 1 for frame in (self._judged, end - 1)]
        begin = ahead[0] - MEMORY
        recent = self.levels[max(begin - self.first, 0) : ahead[1] - self.first]
        missing = MEMORY + (ahead[1] - ahead[0]) - len(recent)
        windows = np.lib.stride_tricks.sliding_window_view
        top = windows(np.pad(recent, (missing, 0), constant_values=-np.inf), MEMORY).max(1)
        floor = windows(np.pad(recent, (missing, 0), constant_values=np.inf), MEMORY).min(1)
        above_noise = np.minimum(floor + ABOVE_FLOOR, top - LEAST_BELOW_TOP)
        thresholds = np.maximum(np.maximum(top - BELOW_TOP, above_noise), MIN_SPEECH_LEVEL)
        thresholds[(top - floor < NOISE_RANGE) & (top < NOISE_MAX_LEVEL)] = np.inf
        # The last frames of a recording share its last window.
        return np.pad(thresholds, (0, end - self._judged - len(thresholds)), mode="edge")

    def _step(self, level: float, threshold: float) -> Iterator[Event]:
        frame = self._judged
        self._judged += 1
        if not self._speaking:
            self._run = self._run + 1 if level > threshold else 0
            if self._run == MIN_SPEECH:
                self._speaking, self._run = True, 0
                yield Event(max(self._last_end, frame + 1 - MIN_SPEECH - MARGIN), True)
            return
        self._run = self._run + 1 if level <= threshold - HYSTERESIS else 0
        if self._run == MIN_PAUSE:
            self._speaking, self._run = False, 0
            self._last_end = frame + 1 - MIN_PAUSE + MARGIN
            yield Event(self._last_end, False)
