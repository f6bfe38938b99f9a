"""Where somebody speaks, found while the audio comes in: levels against a recording's own recent level, no model.

A frame is 20 ms. Its level is compared with the loudest and the quietest of ten seconds, one second ahead included,
and two thresholds (hysteresis) turn levels into stretches of speech. Nothing that comes later is looked up, so a
stream has the very stretches that the whole file has.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

LOOKAHEAD = 50
"""Frames (1 s) known before one is judged: how loud a recording is that begins with speech is not known at once."""
MEMORY = 500
"""Frames (10 s) whose loudest and quietest make the recording's own level."""
SMOOTHING = 5
"""Frames (100 ms) whose power is averaged."""
BELOW_TOP, ABOVE_FLOOR, LEAST_BELOW_TOP = 35.0, 9.0, 15.0
"""Decibels: speech exceeds the loudest - 35 and the quietest + 9, the latter taken for at most the loudest - 15."""
HYSTERESIS = 3.0
"""Decibels below the threshold at which speech that began goes on."""
FAINTEST = -65.0
"""Decibels of full scale below which nothing is speech."""
STEADY, STEADY_BELOW = 12.0, -45.0
"""What stays within 12 dB, and below -45 dB of full scale, is the noise of a room."""
SHORTEST_SPEECH, SHORTEST_PAUSE = 8, 15
"""Frames: 0.16 s above the threshold are speech (a smoothed click has 0.1 s), 0.3 s below it are a pause."""
MARGIN = 5
"""Frames (0.1 s) of onset and decay that are kept with speech."""
LOWEST_LEVEL = -100.0


class Event(NamedTuple):
    """Speech begins (`speech`) or ends at this frame."""

    frame: int
    speech: bool


class SpeechDetector:
    """Turns the powers of frames, fed as they come, into beginnings and ends of speech.

    `levels` holds the smoothed levels (decibels of full scale) of the frames from `first` on, ten seconds back at
    least; frames before `settled` are known to be speech or not.
    """

    def __init__(self) -> None:
        self.levels = np.empty(0)
        self.first = 0
        self._judged = 0
        self._powers = np.empty(0)
        self._speaking = False
        self._run = 0  # loud frames in a row while silent, quiet ones while speaking
        self._last_end = 0

    @property
    def settled(self) -> int:
        if self._speaking:
            return self._judged - self._run
        return max(self._last_end, self._judged - self._run - MARGIN)

    def feed(self, powers: np.ndarray) -> list[Event]:
        """Returns the events that the mean squares `(frames,)` of the next frames settle."""
        self._append(powers)
        return self._judge(self.first + len(self.levels) - LOOKAHEAD)

    def finish(self) -> list[Event]:
        """Returns the events that the end of the recording settles."""
        self._append(np.repeat(self._powers[-1:], SMOOTHING // 2))
        end = self.first + len(self.levels)
        events = self._judge(end)
        if self._speaking:
            events.append(Event(end, False))
        self._speaking, self._run, self._last_end = False, 0, end
        return events

    def _append(self, powers: np.ndarray) -> None:
        if not len(self._powers):
            # Before the first frame it is taken to have been as loud.
            self._powers = np.repeat(powers[:1], SMOOTHING // 2)
        self._powers = np.concatenate([self._powers, powers])
        if len(self._powers) >= SMOOTHING:
            means = np.convolve(self._powers, np.full(SMOOTHING, 1 / SMOOTHING), "valid")
            self._powers = self._powers[len(means) :]
            self.levels = np.concatenate([self.levels, 10 * np.log10(means + 10 ** (LOWEST_LEVEL / 10))])

    def _judge(self, end: int) -> list[Event]:
        if end <= self._judged:
            return []
        levels = self.levels[self._judged - self.first : end - self.first]
        events = [event for frame in zip(levels, self._thresholds(end), strict=True) for event in self._step(*frame)]
        stale = max(0, self._judged - MEMORY - self.first)
        self.levels, self.first = self.levels[stale:], self.first + stale
        return events

    def _thresholds(self, end: int) -> np.ndarray:
        """Returns the level that each frame from the first unjudged one up to `end` must exceed to begin speech."""
        known = self.first + len(self.levels)
        ahead = [min(frame + LOOKAHEAD, known - 1) + 1 for frame in (self._judged, end - 1)]
        begin = ahead[0] - MEMORY
        recent = self.levels[max(begin - self.first, 0) : ahead[1] - self.first]
        missing = MEMORY + (ahead[1] - ahead[0]) - len(recent)
        windows = np.lib.stride_tricks.sliding_window_view
        top = windows(np.pad(recent, (missing, 0), constant_values=-np.inf), MEMORY).max(1)
        floor = windows(np.pad(recent, (missing, 0), constant_values=np.inf), MEMORY).min(1)
        above_noise = np.minimum(floor + ABOVE_FLOOR, top - LEAST_BELOW_TOP)
        thresholds = np.maximum(np.maximum(top - BELOW_TOP, above_noise), FAINTEST)
        thresholds[(top - floor < STEADY) & (top < STEADY_BELOW)] = np.inf
        # The last frames of a recording share the window that ends with it.
        return np.pad(thresholds, (0, end - self._judged - len(thresholds)), mode="edge")

    def _step(self, level: float, threshold: float) -> Iterator[Event]:
        frame = self._judged
        self._judged += 1
        if not self._speaking:
            self._run = self._run + 1 if level > threshold else 0
            if self._run == SHORTEST_SPEECH:
                self._speaking, self._run = True, 0
                yield Event(max(self._last_end, frame + 1 - SHORTEST_SPEECH - MARGIN), True)
            return
        self._run = self._run + 1 if level <= threshold - HYSTERESIS else 0
        if self._run == SHORTEST_PAUSE:
            self._speaking, self._run = False, 0
            self._last_end = frame + 1 - SHORTEST_PAUSE + MARGIN
            yield Event(self._last_end, False)
