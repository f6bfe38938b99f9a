"""What alters copies of recordings: measured on signals whose pitch, resonances, echo and noise are known."""

import numpy as np
import pytest
from conftest import RATE, speechlike

from whisper_ser.audio import augmentation as transforms
from whisper_ser.audio.augmentation import CODECS, NOISES, TRANSFORMS


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def strongest(samples: np.ndarray) -> float:
    """Returns the frequency in hertz with the most power, between the bins of the spectrum."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 4 * len(samples)))
    return float(power.argmax() * RATE / (4 * len(samples)))


def vowel(pitch: float, resonance: float) -> np.ndarray:
    """Returns a second of pulses at `pitch` hertz through one resonance with a tenth of its frequency as width."""
    pulses = np.zeros(RATE)
    pulses[:: round(RATE / pitch)] = 1
    time = np.arange(round(0.05 * RATE)) / RATE
    ringing = np.exp(-np.pi * 0.1 * resonance * time) * np.sin(2 * np.pi * resonance * time)
    return np.convolve(pulses, ringing)[:RATE]


def pitch_of(samples: np.ndarray) -> float:
    """Returns the pitch by the highest peak of the autocorrelation between 60 and 400 Hz."""
    power = np.abs(np.fft.rfft(samples, 2 * len(samples))) ** 2
    lags = np.fft.irfft(power)[: RATE // 60]
    return RATE / (RATE // 400 + lags[RATE // 400 :].argmax())


def centre_of_gravity(samples: np.ndarray) -> float:
    """Returns the mean frequency of the power spectrum between 300 and 3000 Hz."""
    power, hertz = np.abs(np.fft.rfft(samples)) ** 2, np.fft.rfftfreq(len(samples), 1 / RATE)
    band = (hertz > 300) & (hertz < 3000)
    return float((power * hertz)[band].sum() / power[band].sum())


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_tempo_and_frequencies_alike(factor):
    fast = transforms.change_speed(tone(1000), factor, RATE)
    assert len(fast) == pytest.approx(RATE / factor, abs=2)
    assert strongest(fast) == pytest.approx(1000 * factor, rel=2e-3)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_stretched_tone_lasts_longer_at_its_frequency_and_level(factor):
    long = transforms.stretch(tone(440), factor, RATE)
    assert len(long) == round(factor * RATE)
    assert strongest(long) == pytest.approx(440, rel=2e-3)
    middle = long[RATE // 4 : -RATE // 4]
    assert np.sqrt((middle**2).mean()) == pytest.approx(np.sqrt(0.5), rel=0.02)


def test_stretching_keeps_events_at_their_share_of_the_time():
    pulses = np.zeros(RATE)
    pulses[[4000, 12000]] = 1
    long = np.abs(transforms.stretch(pulses, 1.5, RATE))
    assert long[:12000].argmax() == pytest.approx(6000, abs=300)
    assert 12000 + long[12000:].argmax() == pytest.approx(18000, abs=300)


@pytest.mark.parametrize("semitones", [-2.0, 1.0])
def test_pitch_moves_by_semitones_and_takes_no_longer(semitones):
    shifted = transforms.shift_pitch(tone(440), semitones, RATE)
    assert len(shifted) == RATE
    assert strongest(shifted) == pytest.approx(440 * 2 ** (semitones / 12), rel=2e-3)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_warped_vocal_tract_moves_the_resonance_and_not_the_pitch(factor):
    voice, other = vowel(125, 1000), vowel(125, factor * 1000)
    warped = transforms.warp_vocal_tract(voice, factor, RATE)
    assert len(warped) == len(voice)
    assert pitch_of(warped) == pytest.approx(125, rel=0.01) and pitch_of(voice) == pytest.approx(125, rel=0.01)
    # As of another vocal tract, made so.
    assert centre_of_gravity(warped) == pytest.approx(centre_of_gravity(other), rel=0.01)
    assert centre_of_gravity(warped) / centre_of_gravity(voice) == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize("seconds", [0.2, 0.7])
def test_an_echo_falls_by_sixty_decibels_in_its_time(seconds):
    click = np.zeros(RATE)
    click[0] = 1
    room = transforms.reverberate(click, np.random.default_rng(0), seconds, 3.0, RATE)
    energy = np.cumsum(room[:0:-1] ** 2)[::-1]
    # Schroeder 1965: the decay is that of the energy still to come. Its last samples are left out: it ends at once.
    level = 10 * np.log10(energy[: round(0.5 * seconds * RATE)])
    per_sample = np.polyfit(np.arange(len(level)), level, 1)[0]
    assert -60 / per_sample / RATE == pytest.approx(seconds, rel=0.1)
    assert 10 * np.log10(room[0] ** 2 / energy[0]) == pytest.approx(3.0, abs=1e-6)
    assert np.linalg.norm(room) == pytest.approx(1)


@pytest.mark.parametrize("make", NOISES)
def test_noise_lies_as_far_below_the_voice_as_asked(make):
    voice = speechlike(1.0)
    noisy = transforms.add_noise(voice, make(voice, np.random.default_rng(0), RATE), 12.0)
    assert 20 * np.log10(np.linalg.norm(voice) / np.linalg.norm(noisy - voice)) == pytest.approx(12.0, abs=1e-3)


def test_white_noise_is_flat_over_frequency_and_pink_noise_over_octaves():
    long = np.zeros(40 * RATE)
    powers = {
        make.__name__: np.abs(np.fft.rfft(make(long, np.random.default_rng(0), RATE))) ** 2 for make in NOISES[:2]
    }
    octaves = [slice(round(hertz * 40), round(2 * hertz * 40)) for hertz in (250, 1000, 4000)]
    for name, growth in (("white_noise", 4), ("pink_noise", 1)):
        low, middle, high = (powers[name][octave].sum() for octave in octaves)
        assert middle / low == pytest.approx(growth, rel=0.1) and high / middle == pytest.approx(growth, rel=0.1)


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_changes_the_sound_a_little_and_does_not_move_it(codec):
    voice = speechlike(1.5, seed=3)
    heard = transforms.transcode(voice, codec, RATE)
    assert len(heard) == len(voice) and not np.array_equal(heard, voice)
    # A signal-to-noise ratio of 10 dB and more is possible only in step.
    assert 20 * np.log10(np.linalg.norm(voice) / np.linalg.norm(heard - voice)) > 10
    assert np.array_equal(heard, transforms.transcode(voice, codec, RATE))


def test_a_telephone_cuts_what_lies_above_four_kilohertz():
    hiss = transforms.white_noise(np.zeros(RATE), np.random.default_rng(0), RATE)
    power = np.abs(np.fft.rfft(transforms.transcode(hiss, "telephone", RATE))) ** 2
    assert power[4200:].sum() < 1e-3 * power[:3800].sum()


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(
    "samples", [speechlike(0.8), speechlike(0.025), np.zeros(400)], ids=["voice", "click", "zero"]
)
def test_every_transform_gives_finite_sound_for_anything(name, samples):
    generator = np.random.default_rng(1)
    for _ in range(4):
        altered = TRANSFORMS[name](samples, generator, RATE)
        assert np.isfinite(altered).all() and len(altered) == pytest.approx(len(samples), rel=0.12, abs=2)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_draws_from_its_generator_alone(name):
    voice = speechlike(0.5)
    first, again, other = (TRANSFORMS[name](voice, np.random.default_rng(seed), RATE) for seed in (7, 7, 8))
    assert np.array_equal(first, again) and not np.array_equal(first[:6000], other[:6000])
