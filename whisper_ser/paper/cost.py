"""What an encoder costs: parameters, and multiply-accumulate operations, from its architecture alone.

Counted are the products of convolutions, linear layers and attention (scores and weighted values). Normalisations,
activations, softmax, the log-mel spectrogram, and the small networks behind the encoder are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modeling_whisper_ser.configuration_whisper_ser import FRAMES_PER_SECOND
from modeling_whisper_ser.encoder_whisper_ser import even_chunks

SECONDS = 4.0
"""Length of the utterance that costs are given for."""
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
class Cost:
    """Parameters of the encoder that are used, and its multiply-accumulates for a second of audio."""

    parameters: int
    macs_per_second: float


WAVEFORM_COSTS = {
    "Wav2vec 2.0 Large": Cost(315_438_720, 18_407_303_936),
    "HuBERT Large": Cost(315_438_720, 18_407_303_936),
    "WavLM Large": Cost(315_438_720, 18_407_303_936),
    "Data2vec 2.0 Large": Cost(313_280_000, 18_299_710_208),
    "HuBERT X-Large": Cost(962_497_408, 51_304_493_824),
}
"""Of encoders that read the waveform of an utterance of `SECONDS`, all layers; as their authors published them.

The sizes are those of the modules of transformers (`tests/paper/test_cost.py` counts them), without pretraining heads
and without WavLM's gated position bias, less than 0.1% of its parameters and operations.
"""
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


def published_cost(encoder: str, layer: int | None = None) -> Cost:
    """Returns the cost of an encoder of Table 2 for an utterance of `SECONDS`; Whisper reads its 30 s window.

    Args:
        encoder: a name in `WAVEFORM_COSTS` or `WHISPER_ENCODERS`.
        layer: where a Whisper encoder is cut; left out, it is used whole.
    """
    if encoder in WAVEFORM_COSTS:
        return WAVEFORM_COSTS[encoder]
    config = WHISPER_ENCODERS[encoder]
    return whisper_cost(config, layer or config["encoder_layers"], SECONDS, pad_to_seconds=WINDOW_SECONDS)


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
