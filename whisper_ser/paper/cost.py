"""What an encoder costs: parameters, and multiply-accumulate operations, from its architecture alone.

Counted are the products of convolutions, linear layers and attention (scores and weighted values). Normalisations,
activations, softmax, the log-mel spectrogram, and the small networks behind the encoder are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modeling_whisper_ser.configuration_whisper_ser import FRAMES_PER_SECOND
from modeling_whisper_ser.encoder_whisper_ser import even_chunks

SAMPLING_RATE = 16000
WINDOW_SECONDS = 30.0
"""Of the stock Whisper encoder, whatever the length of the utterance."""


def whisper_parameters(config: Mapping[str, Any], layer: int) -> int:
    """Returns the parameters of a Whisper encoder cut behind `layer` (from 1), positions included.

    Args:
        config: of the whole checkpoint, as `WhisperConfig.to_dict()` gives it.
        layer: the last layer that is kept; the final LayerNorm comes with the last layer of all.
    """
    width, inner, mels = config["d_model"], config["encoder_ffn_dim"], config["num_mel_bins"]
    convolutions = 3 * mels * width + width + 3 * width * width + width
    # Whisper's keys have no bias.
    attention = 4 * width * width + 3 * width
    feed_forward = 2 * width * inner + inner + width
    norms = 2 * 2 * width
    last = 2 * width if layer == config["encoder_layers"] else 0
    return convolutions + config["max_source_positions"] * width + layer * (attention + feed_forward + norms) + last


def whisper_macs(
    config: Mapping[str, Any],
    layer: int,
    seconds: float,
    chunk_seconds: float = WINDOW_SECONDS,
    pad_to_seconds: float | None = None,
) -> int:
    """Returns the multiply-accumulates of a Whisper encoder cut behind `layer` for one utterance.

    Args:
        config, layer: as for `whisper_parameters`.
        seconds: length of the utterance.
        chunk_seconds: the utterance is encoded in even chunks of at most this length; attention stays within one.
        pad_to_seconds: the utterance is padded or cut to this length first; 30 in the stock encoder.
    """
    width, inner, mels = config["d_model"], config["encoder_ffn_dim"], config["num_mel_bins"]
    frames = round((seconds if pad_to_seconds is None else pad_to_seconds) * FRAMES_PER_SECOND)
    # The first convolution runs at twice the frame rate.
    convolutions = frames * (2 * 3 * mels * width + 3 * width * width)
    linear = frames * (4 * width * width + 2 * width * inner)
    chunks = even_chunks(frames, round(chunk_seconds * FRAMES_PER_SECOND))
    attention = sum(2 * width * size * size for _, size in chunks)
    return convolutions + layer * (linear + attention)


@dataclass(frozen=True)
class WaveformEncoder:
    """wav2vec 2.0, HuBERT, WavLM or data2vec 2.0: seven convolutions on the waveform, then a transformer.

    WavLM's gated position bias, less than 0.1 % of its parameters and operations, is left out.

    Args:
        width, inner, layers: of the transformer.
        position_layers, position_kernel, position_groups: of the convolutions that stand for positions.
    """

    width: int
    inner: int
    layers: int
    position_layers: int = 1
    position_kernel: int = 128
    position_groups: int = 16
    channels: int = 512
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)

    @property
    def parameters(self) -> int:
        """All parameters but those of the pretraining heads."""
        inputs = (1, *[self.channels] * (len(self.kernels) - 1))
        convolutions = sum(
            kernel * size * self.channels + 3 * self.channels
            for kernel, size in zip(self.kernels, inputs, strict=True)
        )
        projection = 2 * self.channels + self.channels * self.width + self.width
        positions = self.position_layers * (self._position_weights + self.width + self.position_kernel)
        attention = 4 * (self.width * self.width + self.width)
        feed_forward = 2 * self.width * self.inner + self.inner + self.width
        masked_frame, last_norm = self.width, 2 * self.width
        layers = self.layers * (attention + feed_forward + 4 * self.width)
        return convolutions + projection + positions + layers + masked_frame + last_norm

    def macs(self, seconds: float) -> int:
        """Returns the multiply-accumulates for one utterance, encoded whole."""
        frames, size, total = round(seconds * SAMPLING_RATE), 1, 0
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            frames = (frames - kernel) // stride + 1
            total += frames * kernel * size * self.channels
            size = self.channels
        of_frame = 4 * self.width * self.width + 2 * self.width * self.inner + 2 * self.width * frames
        positions = self.position_layers * self._position_weights
        return total + frames * (self.channels * self.width + positions + self.layers * of_frame)

    @property
    def _position_weights(self) -> int:
        return self.width * (self.width // self.position_groups) * self.position_kernel


LARGE = WaveformEncoder(width=1024, inner=4096, layers=24)
WAVEFORM_ENCODERS = {
    "Wav2vec 2.0 Large": LARGE,
    "HuBERT Large": LARGE,
    "WavLM Large": LARGE,
    # 8 layers of its audio front end and 16 shared ones; five convolutions share a width of 95 frames.
    "Data2vec 2.0 Large": WaveformEncoder(1024, 4096, 24, position_layers=5, position_kernel=19),
    "HuBERT X-Large": WaveformEncoder(width=1280, inner=5120, layers=48),
}
"""As their authors published them; a name says the size only, not which corpus it was pretrained on."""

WHISPER_ENCODERS: dict[str, dict[str, int]] = {
    "Whisper Small": {
        "d_model": 768,
        "encoder_layers": 12,
        "encoder_ffn_dim": 3072,
        "num_mel_bins": 80,
        "max_source_positions": 1500,
    },
    "Whisper Large V3": {
        "d_model": 1280,
        "encoder_layers": 32,
        "encoder_ffn_dim": 5120,
        "num_mel_bins": 128,
        "max_source_positions": 1500,
    },
}


@dataclass(frozen=True)
class Cost:
    """Parameters of the encoder that are used, and its multiply-accumulates for a second of audio."""

    parameters: int
    macs_per_second: float


def published_cost(encoder: str, seconds: float, layer: int | None = None) -> Cost:
    """Returns the cost of an encoder of Table 2, Whisper in its 30 s window, the others on the utterance alone.

    Args:
        encoder: a name in `WAVEFORM_ENCODERS` or `WHISPER_ENCODERS`.
        seconds: length of the utterance.
        layer: where a Whisper encoder is cut; left out, it is used whole.
    """
    if encoder in WAVEFORM_ENCODERS:
        waveform = WAVEFORM_ENCODERS[encoder]
        return Cost(waveform.parameters, waveform.macs(seconds) / seconds)
    config = WHISPER_ENCODERS[encoder]
    return whisper_cost(config, layer or config["encoder_layers"], seconds, pad_to_seconds=WINDOW_SECONDS)


def whisper_cost(
    config: Mapping[str, Any],
    layer: int,
    seconds: float,
    chunk_seconds: float = WINDOW_SECONDS,
    pad_to_seconds: float | None = None,
) -> Cost:
    """Returns the cost of a Whisper encoder cut behind `layer`; the arguments are those of `whisper_macs`."""
    macs = whisper_macs(config, layer, seconds, chunk_seconds, pad_to_seconds)
    return Cost(whisper_parameters(config, layer), macs / seconds)
