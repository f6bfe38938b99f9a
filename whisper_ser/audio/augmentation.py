"""Waveform augmentations.

The result depends only on the waveform and on random draws. No other recording is read, so no augmentation can leak a
voice of the test part into training.
"""

import io
from collections.abc import Callable

import numpy as np
import soundfile
import soxr
import torch

Transform = Callable[[np.ndarray, np.random.Generator, int], np.ndarray]
"""Takes a waveform `(samples,)`, the random generator and the sampling rate in hertz; returns a waveform."""

SPEEDS = (0.9, 1.1)
"""Ko et al. 2015."""
SEMITONES = (-2.0, 2.0)
VOCAL_TRACT_WARPS = (0.9, 1.1)
"""Factors of the resonances of the vocal tract, as in Jaitly and Hinton 2013."""
SIGNAL_TO_NOISE_DB = (5.0, 25.0)
REVERBERATION_SECONDS = (0.1, 0.8)
"""Times in which the echo falls by 60 dB."""
DIRECT_TO_ECHO_DB = (0.0, 12.0)
"""From across the room to close to the microphone."""
GAINS_DB = (-12.0, 12.0)
BABBLE_VOICES = 6

WINDOW, HOP = 512, 128
"""Samples of the short-time spectra: 32 ms and 8 ms at 16 kHz."""
LPC_ORDER = 18
"""Poles of the filter that models a vocal tract at 16 kHz."""
WSOLA_SECONDS = 0.03
"""Length of a segment: at least two periods of a deep voice."""


def change_speed(samples: np.ndarray, factor: float, rate: int) -> np.ndarray:
    """Returns the waveform `factor` times as fast; tempo, pitch and resonances change together, as on a tape."""
    return soxr.resample(samples, rate * factor, rate)


def stretch(samples: np.ndarray, factor: float, rate: int) -> np.ndarray:
    """Returns the waveform `factor` times as long at the same pitch, by overlap-add of similar segments (WSOLA).

    Each segment is taken near its position in time, where it is most similar to what followed the previous segment
    (Verhelst and Roelands 1993).
    """
    half = round(WSOLA_SECONDS * rate / 2)
    window = np.hanning(2 * half + 1)[:-1]
    padded = np.pad(samples.astype(np.float64), (2 * half, 4 * half))
    total = np.cumsum(np.pad(padded**2, (1, 0)))
    length = round(len(samples) * factor)
    joined = np.zeros(length + 3 * half)
    start = half
    for place in range(0, length + half, half):
        lowest = min(round(place / factor), len(samples))
        if place:
            wanted = padded[start + half : start + 3 * half]
            energy = total[lowest + 2 * half : lowest + 4 * half + 1] - total[lowest : lowest + 2 * half + 1]
            likeness = np.correlate(padded[lowest : lowest + 4 * half], wanted) / np.sqrt(energy.clip(min=1e-9))
            start = lowest + int(likeness.argmax())
        joined[place : place + 2 * half] += window * padded[start : start + 2 * half]
    return joined[half : half + length]


def shift_pitch(samples: np.ndarray, semitones: float, rate: int) -> np.ndarray:
    """Returns the waveform at another pitch and of the same length; the resonances move with the pitch."""
    factor = 2 ** (semitones / 12)
    return _of_length(change_speed(stretch(samples, factor, rate), factor, rate), len(samples))


def warp_vocal_tract(samples: np.ndarray, factor: float, rate: int) -> np.ndarray:
    """Returns the waveform with the voice's resonances `factor` times as high, at the same pitch and tempo.

    The resonances of each frame are the all-pole filter found by linear prediction (Makhoul 1975).
    """
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    waveform = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float64))
    # The short-time spectrum `(bins, frames)`, complex128.
    spectrum = torch.stft(waveform, WINDOW, HOP, window=window, pad_mode="constant", return_complex=True)
    lags = torch.fft.irfft(spectrum.abs().square(), n=WINDOW, dim=0)[: LPC_ORDER + 1].T.contiguous()
    # A little white noise: otherwise silence and pure tones make the equations singular.
    lags[:, 0] = lags[:, 0] * (1 + 1e-4) + 1e-9
    distance = (torch.arange(LPC_ORDER).unsqueeze(1) - torch.arange(LPC_ORDER)).abs()
    predictor = torch.linalg.solve(lags[:, distance], lags[:, 1:].unsqueeze(2)).squeeze(2)
    inverse = torch.fft.rfft(torch.nn.functional.pad(-predictor, (1, 0)), n=WINDOW, dim=1) + 1
    envelope = -inverse.abs().log().T
    places = (torch.arange(len(envelope), dtype=torch.float64) / factor).clamp(max=len(envelope) - 1)
    low = places.long().clamp(max=len(envelope) - 2)
    share = (places - low).unsqueeze(1)
    warped = (1 - share) * envelope[low] + share * envelope[low + 1]
    return torch.istft(spectrum * (warped - envelope).exp(), WINDOW, HOP, window=window, length=len(samples)).numpy()


def reverberate(
    samples: np.ndarray, generator: np.random.Generator, seconds: float, direct_to_echo: float, rate: int
) -> np.ndarray:
    """Returns the waveform with reverberation, as loud and as long as before; the tail after its end is cut.

    The echo is noise that falls by 60 dB in `seconds`; the direct sound is `direct_to_echo` decibels above it.
    """
    time = np.arange(max(1, round(seconds * rate))) / rate
    echo = generator.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    echo *= 10 ** (-direct_to_echo / 20) / np.linalg.norm(echo)
    room = np.concatenate([[1.0], echo])
    size = len(samples) + len(room) - 1
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(room, size), size)[: len(samples)]
    return wet * (np.linalg.norm(samples) / max(float(np.linalg.norm(wet)), 1e-12))


def add_noise(samples: np.ndarray, noise: np.ndarray, signal_to_noise: float) -> np.ndarray:
    """Returns the waveform plus `noise` `(samples,)`, scaled to be `signal_to_noise` decibels weaker overall."""
    level = np.linalg.norm(samples) / max(float(np.linalg.norm(noise)), 1e-12)
    return samples + noise * (level * 10 ** (-signal_to_noise / 20))


def white_noise(samples: np.ndarray, generator: np.random.Generator, rate: int) -> np.ndarray:
    """Returns white noise (equal power at every frequency), as long as `samples`."""
    return generator.standard_normal(len(samples))


def pink_noise(samples: np.ndarray, generator: np.random.Generator, rate: int) -> np.ndarray:
    """Returns pink noise (equal power in every octave), as long as `samples`."""
    spectrum = np.fft.rfft(generator.standard_normal(len(samples)))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(samples))


def babble(samples: np.ndarray, generator: np.random.Generator, rate: int) -> np.ndarray:
    """Returns several voices, as long as `samples`: the utterance itself, reversed, at other speeds and times.

    Babble is usually made of other utterances. But augmented views are made once for all folds, so voices of the test
    part of a fold would leak into its training.
    """
    voices = np.zeros(len(samples))
    for _ in range(BABBLE_VOICES):
        voice = np.roll(samples[::-1], generator.integers(len(samples)))
        voice = change_speed(voice, generator.uniform(0.8, 1.25), rate)
        voices += np.resize(voice, len(samples)) if len(voice) else 0
    return voices


def transcode(samples: np.ndarray, codec: str, rate: int) -> np.ndarray:
    """Returns the waveform after encoding and decoding by one of `CODECS`, as long and as loud as before."""
    of_codec, container, subtype, level = CODECS[codec]
    peak = max(float(np.abs(samples).max()), 1e-12)
    file = io.BytesIO()
    scaled = 0.9 * samples / peak
    if of_codec != rate:
        scaled = soxr.resample(scaled, rate, of_codec)
    soundfile.write(file, scaled, of_codec, format=container, subtype=subtype, compression_level=level)
    file.seek(0)
    decoded, _ = soundfile.read(file)
    if of_codec != rate:
        decoded = soxr.resample(decoded, of_codec, rate)
    return _of_length(decoded, len(samples)) * (peak / 0.9)


CODECS: dict[str, tuple[int, str, str, float | None]] = {
    "telephone": (8000, "WAV", "ULAW", None),
    "gsm": (8000, "WAV", "GSM610", None),
    "mp3": (16000, "MP3", "MPEG_LAYER_III", 0.9),
    "opus": (16000, "OGG", "OPUS", 0.95),
}
"""Sampling rate in hertz, container, encoding and compression level, as libsndfile names them."""
NOISES: tuple[Transform, ...] = (white_noise, pink_noise, babble)


TRANSFORMS: dict[str, Transform] = {
    "speed": lambda samples, draw, rate: change_speed(samples, draw.uniform(*SPEEDS), rate),
    "pitch": lambda samples, draw, rate: shift_pitch(samples, draw.uniform(*SEMITONES), rate),
    "vocal_tract": lambda samples, draw, rate: warp_vocal_tract(samples, draw.uniform(*VOCAL_TRACT_WARPS), rate),
    "reverb": lambda samples, draw, rate: reverberate(
        samples, draw, draw.uniform(*REVERBERATION_SECONDS), draw.uniform(*DIRECT_TO_ECHO_DB), rate
    ),
    "noise": lambda samples, draw, rate: add_noise(
        samples, NOISES[draw.integers(len(NOISES))](samples, draw, rate), draw.uniform(*SIGNAL_TO_NOISE_DB)
    ),
    "codec": lambda samples, draw, rate: transcode(samples, list(CODECS)[draw.integers(len(CODECS))], rate),
    "gain": lambda samples, draw, rate: samples * 10 ** (draw.uniform(*GAINS_DB) / 20),
}
"""In the order in which they are applied: voice, room, background, transmission, volume."""


def _of_length(samples: np.ndarray, length: int) -> np.ndarray:
    return np.pad(samples[:length], (0, max(0, length - len(samples))))
