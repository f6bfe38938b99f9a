"""Log-mel spectrograms of audio, without padding to 30 s."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from .configuration_whisper_ser import REMOTE_CODE_FIELDS, ConfigError, check_integer, is_number

MAX_PADDING_SECONDS = 3600
MAX_CHANNELS = 8
"""A 2-d array with at most this many columns and more rows is taken for (samples, channels)."""
BLOCK_FRAMES = 6000
"""Mel frames (60 s) transformed at a time, so that an hour of audio needs no more memory than a minute."""
MAX_MAGNITUDE = 1e12
"""Audio with larger samples is damaged, as full scale is 1. Squares of samples above 1e16 would overflow."""


class AudioError(ValueError):
    """Audio that cannot be used; the message gives the reason."""


class WhisperSerFeatureExtractor(SequenceFeatureExtractor):
    """Whisper's log-mel spectrogram of the unpadded audio, time first, with a mask.

    The stock extractor pads every clip to 30 s; this one computes the frames of the clip only. Their values are the
    same: Whisper clamps to 8 below the maximum, and silence never raises the maximum.

    Args:
        feature_size: mel channels, 80 (128 for whisper-large-v3).
        sampling_rate: of the audio, in hertz; other rates are an error.
        hop_length, n_fft: samples between frames, and samples in a frame.
        padding_value: of the frames behind a shorter clip in a batch. They are masked, and models do not read them.
        pad_to_seconds: audio is padded with silence or truncated to this length, and every frame counts as real; 30 is
            the paper's setting. `None` (default) leaves the audio unchanged.

    Raises:
        ConfigError: names the setting, its value and the valid values.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        n_fft: int = 400,
        padding_value: float = 0.0,
        pad_to_seconds: float | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value, lowest, highest in (
            ("feature_size", feature_size, 1, 1024),
            ("sampling_rate", sampling_rate, 1000, 10**6),
            ("n_fft", n_fft, 2, 2**16),
            ("hop_length", hop_length, 1, n_fft),
        ):
            check_integer(name, value, lowest, highest)
        shortest, longest = n_fft / sampling_rate, MAX_PADDING_SECONDS
        if pad_to_seconds is not None and not (is_number(pad_to_seconds) and shortest <= pad_to_seconds <= longest):
            raise ConfigError(f"pad_to_seconds={pad_to_seconds!r} must be None or from {shortest:g} to {longest} s.")
        for name in REMOTE_CODE_FIELDS:
            kwargs.pop(name, None)
        if "auto_map" in kwargs:
            # A loaded file may name other code, such as that of other repositories; it is not saved again.
            loaded = kwargs["auto_map"] or {}
            kwargs["auto_map"] = {kind: loaded[kind] for kind in ("AutoFeatureExtractor",) if kind in loaded}
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.pad_to_seconds = pad_to_seconds
        self.mel_filters = _mel_filters(n_fft, feature_size, sampling_rate)

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[float] | Sequence[np.ndarray] | Sequence[Sequence[float]],
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Returns `input_features` `(batch, mel_frames, mels)` and `attention_mask` `(batch, mel_frames)`.

        Args:
            raw_speech: one mono clip `(samples,)`, or several as a list or as an array `(batch, samples)`.
            sampling_rate: of `raw_speech`, in hertz; checked against the extractor's.
            padding: as in `SequenceFeatureExtractor.pad`; by default to the longest clip of the batch.
            return_tensors: `"pt"`, `"np"` or `None`.
            **kwargs: `max_length`, `pad_to_multiple_of` of `SequenceFeatureExtractor.pad`, in mel frames.

        Raises:
            AudioError: another sampling rate, no samples, more than one channel, or samples that are not finite or
                larger than 1e12.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise AudioError(
                f"The audio has {sampling_rate} Hz and this model expects {self.sampling_rate} Hz: resample it first."
            )
        clips = [_checked(clip) for clip in _clips(raw_speech)]
        features = [self._log_mel(clip) for clip in clips]
        if clips and padding in (True, "longest") and return_tensors in ("pt", "np") and not kwargs:
            return self._padded(features, return_tensors)
        batch = BatchFeature({"input_features": [mel.numpy() for mel in features]})
        return self.pad(batch, padding=padding, return_attention_mask=True, return_tensors=return_tensors, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of `preprocessor_config.json`; the mel filters are computed from it."""
        fields = super().to_dict()
        fields.pop("mel_filters", None)
        return fields

    def _padded(self, features: list[torch.Tensor], return_tensors: str) -> BatchFeature:
        """Returns the same as `pad` to the longest clip, without its conversion to lists (a third of the time)."""
        mels = pad_sequence(features, batch_first=True, padding_value=self.padding_value)
        lengths = torch.tensor([len(mel) for mel in features])
        mask = (torch.arange(mels.shape[1]) < lengths[:, None]).int()
        batch = {"input_features": mels, "attention_mask": mask}
        return BatchFeature(batch if return_tensors == "pt" else {name: x.numpy() for name, x in batch.items()})

    def _log_mel(self, clip: np.ndarray) -> torch.Tensor:
        """Returns `(mel_frames, mels)` of `clip` `(samples,)`; frame `t` is centred on sample `t * hop_length`."""
        half = self.n_fft // 2
        if self.pad_to_seconds is None:
            frames = -(-len(clip) // self.hop_length)
            # The stock extractor's maximum includes the frames beyond the end that still overlap the clip.
            computed = -(-(len(clip) + half) // self.hop_length)
            padded = np.zeros((computed - 1) * self.hop_length + self.n_fft, dtype=np.float32)
            padded[half : half + len(clip)] = clip
            padded[:half] = padded[2 * half : half : -1]
        else:
            samples = round(self.pad_to_seconds * self.sampling_rate)
            frames = computed = samples // self.hop_length
            clip = np.pad(clip[:samples], (0, max(0, samples - len(clip))))
            padded = np.pad(clip, half, mode="reflect")
        return _normalised(self._mel_power(padded, computed))[:frames]

    def _mel_power(self, padded: np.ndarray, frames: int) -> torch.Tensor:
        """Returns the mel power spectrum `(frames, mels)` of frames that start every `hop_length` samples."""
        waveform = torch.from_numpy(padded)
        window, filters = _window_and_filters(self.n_fft, self.feature_size, self.sampling_rate)
        blocks = []
        for first in range(0, frames, BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, frames - first)
            begin = first * self.hop_length
            block = waveform[begin : begin + (count - 1) * self.hop_length + self.n_fft]
            spectrum = torch.fft.rfft(block.unfold(0, self.n_fft, self.hop_length) * window)  # (count, bins)
            parts = torch.view_as_real(spectrum).flatten(1)  # (count, 2 * bins)
            blocks.append(torch.mm(parts.square_(), filters))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


@functools.lru_cache
def _window_and_filters(n_fft: int, mels: int, sampling_rate: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the window `(n_fft,)` and the mel filters with each row repeated `(2 * bins, mels)`.

    Real and imaginary parts alternate in a spectrum, so that one product with the repeated filters adds their squares.
    """
    filters = torch.from_numpy(_mel_filters(n_fft, mels, sampling_rate)).float()
    return torch.hann_window(n_fft), filters.repeat_interleave(2, dim=0)


def _mel_filters(n_fft: int, mels: int, sampling_rate: int) -> np.ndarray:
    """Returns Whisper's mel filters `(bins, mels)`."""
    return mel_filter_bank(
        num_frequency_bins=1 + n_fft // 2,
        num_mel_filters=mels,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )


def _normalised(mel_power: torch.Tensor) -> torch.Tensor:
    """Returns Whisper's log-mel: log10, clamped to 8 below the maximum, shifted and scaled to about [-1, 1]."""
    log_mel = mel_power.clamp_(min=1e-10).log10_()
    return log_mel.clamp_(min=log_mel.max().item() - 8.0).add_(4.0).div_(4.0)


def _clips(raw_speech: Any) -> list[Any]:
    """Returns a list of clips, from any of the accepted forms."""
    if isinstance(raw_speech, torch.Tensor):
        raw_speech = raw_speech.numpy(force=True)
    if isinstance(raw_speech, np.ndarray):
        if raw_speech.ndim == 2 and raw_speech.shape[1] <= MAX_CHANNELS < raw_speech.shape[0]:
            raise AudioError(f"{raw_speech.shape} looks like (samples, channels); expected mono: mix it first.")
        return list(raw_speech) if raw_speech.ndim > 1 else [raw_speech]
    if len(raw_speech) and not np.isscalar(raw_speech[0]) and np.ndim(raw_speech[0]) > 0:
        return list(raw_speech)
    return [raw_speech]


def _checked(clip: Any) -> np.ndarray:
    """Returns one clip as float32 `(samples,)`, or raises `AudioError`."""
    if getattr(clip, "dtype", np.dtype(float)).kind in "iu":
        raise AudioError(f"The audio has {clip.dtype} samples: scale them to float in [-1, 1] first.")
    samples = np.asarray(clip, dtype=np.float32)
    if samples.ndim != 1:
        raise AudioError(f"Expected mono audio of shape (samples,), got {samples.shape}: mix or pick a channel first.")
    if samples.size == 0:
        raise AudioError("The audio has no samples.")
    if not np.isfinite(samples).all():
        raise AudioError("The audio has samples that are NaN or infinite.")
    if np.abs(samples).max() > MAX_MAGNITUDE:
        raise AudioError(f"The audio has samples beyond {MAX_MAGNITUDE:g}, where full scale is 1: it is damaged.")
    return samples


WhisperSerFeatureExtractor.register_for_auto_class()
