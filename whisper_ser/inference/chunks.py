"""A recording cut into what the encoder is given: no silence, and speech cut at pauses and quiet moments."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from whisper_ser.audio.log_mel import FRAMES_PER_SECOND
from whisper_ser.audio.voice_activity import MARGIN, SMOOTHING, SpeechDetector

SHORTEST_REST = FRAMES_PER_SECOND
"""Frames (1 s) by which speech must outlast the longest chunk before one is cut off: no chunk is a mere rest."""


class Chunk(NamedTuple):
    """A stretch of one recording in frames of 20 ms, from `start` up to `end`: speech, or silence without audio."""

    start: int
    end: int
    audio: np.ndarray | None


class Chunker:
    """Cuts audio, fed in blocks of any size, into chunks of speech of at most `longest` frames, and silences.

    They follow each other without gaps, and are the same however the audio was cut into blocks. Memory is bounded: no
    more than the longest chunk and two seconds are kept.

    Args:
        longest: frames of 20 ms that a chunk of speech has at most.
        sampling_rate: hertz of the audio.
    """

    def __init__(self, longest: int, sampling_rate: int) -> None:
        self._longest = longest
        self._frame = sampling_rate // FRAMES_PER_SECOND
        self._detector = SpeechDetector()
        self._audio = np.empty(0, np.float32)
        self._audio_start = 0  # frame that the audio kept begins with
        self._measured = 0  # frames whose power the detector has
        self._done = 0  # frames that chunks were made of
        self._speaking = False

    @property
    def settled(self) -> int:
        """The frame before which every frame is in a chunk, or is known to be silence."""
        return self._done if self._speaking else max(self._done, self._detector.settled)

    def feed(self, samples: np.ndarray) -> list[Chunk]:
        """Returns the chunks that the next samples `(samples,)` complete."""
        self._audio = np.concatenate([self._audio, samples])
        frames = self._audio_start + len(self._audio) // self._frame
        events = self._detector.feed(self._powers(self._measured, frames))
        self._measured = frames
        chunks = [chunk for event in events for chunk in self._turn(*event)]
        if self._speaking:
            chunks += self._cut_long(self._detector.settled)
        unneeded = self.settled - self._audio_start
        self._audio, self._audio_start = self._audio[unneeded * self._frame :], self.settled
        return chunks

    def finish(self) -> list[Chunk]:
        """Returns the last chunks; less than a frame at the very end is left out."""
        chunks = [chunk for event in self._detector.finish() for chunk in self._turn(*event)]
        if self._done < self._measured:
            chunks.append(self._chunk(self._measured, speech=False))
        return chunks

    def _turn(self, frame: int, speech: bool) -> Iterator[Chunk]:
        """Yields the chunks that end where speech begins or ends."""
        if self._speaking:
            # No later than this was the speech known to go on, when it came in small blocks.
            yield from self._cut_long(frame - MARGIN)
            if frame - self._done > self._longest:
                spare = max(frame - self._done - self._longest, (frame - self._done) // 3)
                yield self._chunk(self._quietest(self._done + spare, frame - spare), speech=True)
        if frame > self._done:
            yield self._chunk(frame, speech=self._speaking)
        self._speaking = speech

    def _cut_long(self, known: int) -> Iterator[Chunk]:
        """Yields chunks off speech that is known to go on up to the frame `known`."""
        while known - self._done >= self._longest + SHORTEST_REST:
            yield self._chunk(self._quietest(self._done + self._longest // 2, self._done + self._longest), speech=True)

    def _chunk(self, end: int, speech: bool) -> Chunk:
        start, self._done = self._done, end
        begin, stop = ((frame - self._audio_start) * self._frame for frame in (start, end))
        return Chunk(start, end, self._audio[begin:stop].copy() if speech else None)

    def _quietest(self, begin: int, end: int) -> int:
        """Returns the frame from `begin` to `end`, both included, around which there is the least sound."""
        around = SMOOTHING // 2
        powers = self._powers(begin - around, end + around + 1)
        return begin + int(np.convolve(powers, np.ones(SMOOTHING), "valid").argmin())

    def _powers(self, begin: int, end: int) -> np.ndarray:
        """Returns the mean squares `(frames,)` of the frames from `begin` up to `end`, free of a constant offset."""
        frames = self._audio[(begin - self._audio_start) * self._frame : (end - self._audio_start) * self._frame]
        return frames.reshape(-1, self._frame).var(axis=1, dtype=np.float64)
