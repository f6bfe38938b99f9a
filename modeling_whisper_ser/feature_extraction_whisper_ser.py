"""Log-mel spectrograms of audio, without padding to 30 s."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
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
        for name in (*REMOTE_CODE_FIELDS, "auto_map"):  # saving writes a new auto_map
            kwargs.pop(name, None)
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.pad_to_seconds = pad_to_seconds
        self.mel_filters = mel_filter_bank(  # (bins, mels), never saved: the settings above give them
            num_frequency_bins=1 + n_fft // 2,
            num_mel_filters=feature_size,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        )

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
        mels = [self._log_mel(_checked(clip)).numpy() for clip in _clips(raw_speech)]  # each (mel_frames, mels)
        batch = BatchFeature({"input_features": mels})
        return self.pad(batch, padding=padding, return_attention_mask=True, return_tensors=return_tensors, **kwargs)

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
        window, filters = torch.hann_window(self.n_fft), torch.from_numpy(self.mel_filters).float()
        framed = torch.from_numpy(padded).unfold(0, self.n_fft, self.hop_length)[:computed]  # (frames, n_fft), a view
        power = torch.cat(
            [torch.fft.rfft(block * window).abs().square() @ filters for block in framed.split(BLOCK_FRAMES)]
        )  # (frames, mels)
        log_mel = power.clamp(min=1e-10).log10()
        # Whisper's normalisation: clamped to 8 below the maximum, then scaled to about [-1, 1].
        return (log_mel.clamp(min=log_mel.max() - 8.0)[:frames] + 4.0) / 4.0


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
