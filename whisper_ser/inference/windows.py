"""Windows and segments over frame vectors that arrive in order; each is pooled when all its frames are known."""

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from whisper_ser.audio.log_mel import FRAMES_PER_SECOND
from whisper_ser.errors import InferenceError
from whisper_ser.inference.model import LoadedModel
from whisper_ser.inference.outputs import Span, Update

MIN_SPEECH_FRAMES = 15
"""Frames (0.3 s) of speech that a window needs, or half of a shorter window; with less it is silence."""
MIN_SEGMENT_FRAMES = FRAMES_PER_SECOND
"""Frames (1 s). Shorter speech is pooled together with the speech around it."""
MAX_POOLED_FRAMES = 4000
"""The most frame vectors that are pooled at a time."""


class Piece(NamedTuple):
    """The frames of 20 ms from `start` up to `end`, speech or silence, and the frame vectors of what was encoded.

    `positions` `(vectors,)` are the first frames of the vectors `(vectors, frame_width)`.
    """

    start: int
    end: int
    speech: bool
    positions: np.ndarray
    vectors: np.ndarray


class _Request(NamedTuple):
    """The span from `start` to `end` seconds, which pools the vectors of the frames `first` up to `last`."""

    start: float
    end: float
    first: int
    last: int
    silent: bool = False


class WindowPooling:
    """Makes windows of pieces, which follow each other without gaps, and a segment of each piece.

    Args:
        recognizer: pools the vectors.
        window, hop: in seconds. Window i begins at `i * hop`. The last ones end with the recording, and none begins
            after one that reaches the end.

    Raises:
        InferenceError: the window is shorter than one frame vector of the model, or the hop than one frame.
    """

    def __init__(self, recognizer: LoadedModel, window: float, hop: float) -> None:
        for name, value, frames in (("window", window, recognizer.settings.frame_averaging), ("hop", hop, 1)):
            if not frames / FRAMES_PER_SECOND <= value < math.inf:
                least = f"{frames / FRAMES_PER_SECOND:g} seconds"
                raise InferenceError(f"{name}={value:g} must be at least {least}: the model has no shorter frames.")
        self._recognizer = recognizer
        self._window, self._hop = window, hop
        self._least_speech = max(1, min(MIN_SPEECH_FRAMES, round(window * FRAMES_PER_SECOND / 2)))
        self._vectors = np.empty((0, recognizer.frame_width), np.float32)
        self._positions, self._spoken = np.empty(0, int), np.empty(0, int)
        self._waiting: deque[Piece] = deque()
        self._next_window = 0

    def feed(self, pieces: list[Piece], settled: int) -> Update:
        """Returns what is final when every frame before `settled` is in a piece or known to be silence."""
        self._add(pieces)
        update = Update(
            self._pooled(list(self._windows_before(settled))), self._pooled(list(self._segments_before(settled)))
        )
        self._forget(settled)
        return update

    def finish(self, pieces: list[Piece], seconds: float) -> Update:
        """Returns the last windows and segments of a recording of `seconds`."""
        self._add(pieces)
        segments = list(self._segments_before(None))
        if segments:
            segments[-1] = segments[-1]._replace(end=seconds)
        return Update(self._pooled(list(self._last_windows(seconds))), self._pooled(segments))

    def _add(self, pieces: list[Piece]) -> None:
        self._waiting.extend(pieces)
        for piece in pieces:
            lengths = np.diff(piece.positions, append=piece.end)
            self._spoken = np.concatenate([self._spoken, lengths * piece.speech])
            self._positions = np.concatenate([self._positions, piece.positions])
        self._vectors = np.concatenate([self._vectors, *(piece.vectors for piece in pieces)])

    def _windows_before(self, settled: int) -> Iterator[_Request]:
        while (window := self._window_at(self._next_window)).last <= settled:
            self._next_window += 1
            yield window

    def _last_windows(self, seconds: float) -> Iterator[_Request]:
        """Yields windows up to the first one that reaches the end, cut at the end of the recording."""
        reached = self._next_window * self._hop - self._hop + self._window if self._next_window else 0.0
        while reached < seconds and (window := self._window_at(self._next_window)).start < seconds:
            reached = window.end
            self._next_window += 1
            yield window._replace(end=min(window.end, seconds))

    def _window_at(self, index: int) -> _Request:
        start = index * self._hop
        end = start + self._window
        first, last = (math.ceil(time * FRAMES_PER_SECOND - 1e-6) for time in (start, end))
        return _Request(start, end, first, last)

    def _segments_before(self, settled: int | None) -> Iterator[_Request]:
        while self._waiting:
            segment = self._segment(self._waiting[0])
            if settled is not None and segment.last > settled:
                return
            self._waiting.popleft()
            yield segment

    def _segment(self, piece: Piece) -> _Request:
        seconds = piece.start / FRAMES_PER_SECOND, piece.end / FRAMES_PER_SECOND
        if not piece.speech or piece.end - piece.start >= MIN_SEGMENT_FRAMES:
            return _Request(*seconds, piece.start, piece.end, not piece.speech)
        around = self._around((piece.start + piece.end) // 2)
        return _Request(*seconds, min(piece.start, around[0]), max(piece.end, around[1]))

    def _around(self, middle: int) -> tuple[int, int]:
        half = round(self._window * FRAMES_PER_SECOND / 2)
        return middle - half, middle + half

    def _pooled(self, requests: list[_Request]) -> list[Span]:
        """Returns the spans of the requests; the vectors of many requests are pooled at a time."""
        begins = np.searchsorted(self._positions, [request.first for request in requests])
        ends = np.searchsorted(self._positions, [request.last for request in requests])
        spoken = np.concatenate([[0], np.cumsum(self._spoken)])
        silent = np.array([request.silent for request in requests], bool)
        pending = np.flatnonzero(~silent & (spoken[ends] - spoken[begins] >= self._least_speech))
        found: dict[int, dict[str, float]] = {}
        while len(pending):
            count = max(1, MAX_POOLED_FRAMES // int((ends - begins)[pending].max()))
            batch, pending = pending[:count], pending[count:]
            probabilities = self._pool(begins[batch], ends[batch])
            for index, row in zip(batch, probabilities, strict=True):
                found[index] = dict(zip(self._recognizer.labels, row.tolist(), strict=True))
        return [Span(one.start, one.end, found.get(i)) for i, one in enumerate(requests)]

    def _pool(self, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Returns probabilities `(spans, labels)` over the vectors from `begins` `(spans,)` up to `ends`."""
        rows = np.concatenate([np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)])
        return self._recognizer.pool(self._vectors[rows], (ends - begins).tolist())

    def _forget(self, settled: int) -> None:
        """Drops the vectors that no later window or segment needs."""
        needed = [self._window_at(self._next_window).first, self._around(settled)[0]]
        needed += [self._segment(piece).first for piece in list(self._waiting)[:1]]
        stale = np.searchsorted(self._positions, min(needed))
        self._positions, self._spoken = self._positions[stale:], self._spoken[stale:]
        self._vectors = self._vectors[stale:].copy()
