"""Whisper's log-mel spectrogram in NumPy, without padding to 30 s, in bounded memory."""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from whisper_ser.audio.decoding import check_samples
from whisper_ser.errors import AudioFileError

FRAMES_PER_SECOND = 50
"""Encoder frames: mel frames every 10 ms, of which two make an encoder frame."""
HIGHEST_HERTZ = 8000.0
BLOCK_FRAMES = 64
"""Mel frames transformed at a time, so few that their spectra fit into the processor's cache."""


@dataclass(frozen=True)
class LogMel:
    """Computes what `WhisperSerFeatureExtractor` computes, without torch; the fields are its settings.

    Args:
        feature_size: mel channels.
        sampling_rate: of the audio, in hertz.
        hop_length, n_fft: samples between frames, and samples in a frame.
        pad_to_seconds: audio is padded with silence or cut to this length; `None` leaves it as it is.
    """

    feature_size: int = 80
    sampling_rate: int = 16000
    hop_length: int = 160
    n_fft: int = 400
    pad_to_seconds: float | None = None

    def __call__(self, clip: np.ndarray) -> np.ndarray:
        """Returns `(mel_frames, mels)`, float32, of mono samples `(samples,)`.

        Raises:
            AudioFileError: not one channel of floats, no samples, or samples that are NaN, infinite or beyond 1e12.
        """
        samples = np.asarray(clip)
        if samples.dtype.kind != "f" or samples.ndim != 1 or not len(samples):
            raise AudioFileError(
                "The audio", f"is {samples.dtype} {samples.shape}; expected floats in [-1, 1] of shape (samples,)"
            )
        check_samples("The audio", samples)
        return self.of_blocks([samples.astype(np.float32, copy=False)])

    def of_blocks(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """Returns `(mel_frames, mels)` of a recording that comes in blocks of samples `(samples,)`."""
        if self.pad_to_seconds is None:
            power, frames = self._unpadded(blocks)
        else:
            power, frames = self._padded(blocks, round(self.pad_to_seconds * self.sampling_rate))
        # Whisper's: log10, clamped to 8 below the maximum, shifted and scaled to about [-1, 1].
        log_mel = np.log10(np.maximum(power, 1e-10, out=power), out=power)
        np.maximum(log_mel, log_mel.max() - 8, out=log_mel)
        log_mel += 4
        log_mel /= 4
        return log_mel[:frames]

    def _unpadded(self, blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
        """Returns the mel power `(frames computed, mels)`, and how many of the frames are the recording's."""
        half, samples, parts = self.n_fft // 2, 0, []
        rest = np.empty(0, np.float32)
        for block in blocks:
            mirrored = samples > half
            samples += len(block)
            rest = np.concatenate([rest, block])
            if not mirrored and samples > half:
                rest = np.concatenate([rest[half:0:-1], rest])
            if samples > half:
                frames = max(0, (len(rest) - self.n_fft) // self.hop_length + 1)
                parts.append(self._power(rest, frames))
                rest = rest[frames * self.hop_length :]
        if samples <= half:
            rest = np.concatenate([rest, np.zeros(half + 1 - samples, np.float32)])
            rest = np.concatenate([rest[half:0:-1], rest])
        # The stock extractor's maximum includes the frames beyond the end that still overlap the recording.
        missing = -(-(samples + half) // self.hop_length) - sum(map(len, parts))
        silence = (missing - 1) * self.hop_length + self.n_fft - len(rest)
        parts.append(self._power(np.concatenate([rest, np.zeros(max(0, silence), np.float32)]), missing))
        return np.concatenate(parts), -(-samples // self.hop_length)

    def _padded(self, blocks: Iterable[np.ndarray], samples: int) -> tuple[np.ndarray, int]:
        """As `_unpadded`, of a recording padded or cut to so many samples."""
        parts = [np.empty(0, np.float32)]
        for block in blocks:  # all of them are read: the caller measures the recording by them
            if sum(map(len, parts)) < samples:
                parts.append(block)
        clip = np.concatenate(parts)[:samples]
        clip = np.pad(clip, (0, samples - len(clip)))
        frames = samples // self.hop_length
        return self._power(np.pad(clip, self.n_fft // 2, mode="reflect"), frames), frames

    def _power(self, samples: np.ndarray, frames: int) -> np.ndarray:
        """Returns the mel power `(frames, mels)` of the frames that begin every `hop_length` samples."""
        window, bins, weights, begins = _window_and_filters(self.n_fft, self.feature_size, self.sampling_rate)
        power = np.empty((frames, self.feature_size), np.float32)
        if not frames:
            return power
        framed = np.lib.stride_tricks.sliding_window_view(samples, self.n_fft)[:: self.hop_length]
        for begin in range(0, frames, BLOCK_FRAMES):
            spectrum = np.fft.rfft(framed[begin : min(begin + BLOCK_FRAMES, frames)] * window)
            energy = spectrum.real**2 + spectrum.imag**2  # (block, bins)
            # A product with the filters would do the same, on threads of NumPy's own that wait busily.
            power[begin : begin + BLOCK_FRAMES] = np.add.reduceat(energy[:, bins] * weights, begins, axis=1)
        return power


@functools.lru_cache
def _window_and_filters(n_fft: int, mels: int, sampling_rate: int) -> tuple[np.ndarray, ...]:
    """Returns the window `(n_fft,)`, and the mel filters without their zeros.

    The filters are given as the bins of each, one filter after the other, the weights of these bins, and where each
    filter begins.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    filters = mel_filters(n_fft, mels, sampling_rate).astype(np.float32)
    # A filter narrower than a bin may contain none: it gets one, with the weight 0.
    bins_of_filter = [np.flatnonzero(column) if column.any() else np.array([0]) for column in filters.T]
    bins = np.concatenate(bins_of_filter)
    owners = np.repeat(np.arange(mels), list(map(len, bins_of_filter)))
    begins = np.searchsorted(owners, np.arange(mels))
    return window.astype(np.float32), bins, filters[bins, owners], begins


def mel_filters(n_fft: int, mels: int, sampling_rate: int) -> np.ndarray:
    """Returns Whisper's mel filters `(bins, mels)`: triangles of unit area, on Slaney's scale up to 8 kHz."""
    bins = np.linspace(0, sampling_rate // 2, n_fft // 2 + 1)
    edges = mel_to_hertz(np.linspace(0, hertz_to_mel(HIGHEST_HERTZ), mels + 2))
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))


def hertz_to_mel(hertz: float) -> float:
    """Returns Slaney's mel: linear below 1 kHz, logarithmic above."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    """Returns the inverse of `hertz_to_mel`."""
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))
