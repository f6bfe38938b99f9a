"""The encoder for use on a CPU: weights packed once for oneDNN, no padding, products of float32 or 8-bit integers.

The plain encoder stays the reference. What differs: convolutions are matrix products; queries, keys and values come of
one; GELU and residual additions happen where a product is written; and the frames of all chunks of a pass stand in one
matrix, so that only attention knows of chunks.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from .encoder_whisper_ser import WhisperSerEncoder
from .feature_extraction_whisper_ser import WhisperSerFeatureExtractor

TYPICAL_FRAMES = 200
"""Encoder frames that packed weights are laid out for, those of a chunk of 4 s. Any other number works, too."""
STEPS = 255
"""Steps between the ends of a range of 8-bit activations."""
MARGIN = 1.25
"""By which ranges are wider than what was heard: what lies beyond is cut off, and steps grow with it."""
GELU: tuple[str, list, str] = ("gelu", [], "none")
NOTHING: tuple[str, list, str] = ("none", [], "")
"""What oneDNN does to a product before it writes it."""
PRECISIONS = ("float32", "int8")
LOUD_CHANNELS = 32
"""Channels inside a layer's MLP whose second product stays float32: a few are a hundred times larger than the rest."""


class PackingError(ValueError):
    """A model that cannot be packed here or so, or a packed one that is asked for what only a plain one can do."""


def pack(
    plain: WhisperSerEncoder, precision: str = "float32", recordings: Sequence[np.ndarray] | None = None
) -> "PackedEncoder":
    """Returns the encoder packed for use on this processor.

    Args:
        plain: float32, on a CPU.
        precision: `"float32"` is exact but for rounding; `"int8"` multiplies 8-bit integers, about twice as fast, and
            is off by a few percent of a state.
        recordings: mono waveforms `(samples,)` at 16 kHz, of which int8 learns how large numbers get inside; left
            out, of synthetic voices. These ranges hardly depend on who speaks, and they are fixed from then on: a
            clip has the same answer alone and in a batch.

    Raises:
        PackingError: no such precision, not on this processor, or an encoder that is not float32 on a CPU.
    """
    weight = plain.conv1.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise PackingError(f"The model has {weight.dtype} weights on {weight.device}, expected float32 on a CPU.")
    check_packing(precision)
    if precision == "float32":
        return PackedEncoder(plain)
    extractor = WhisperSerFeatureExtractor(feature_size=plain.conv1.in_channels)
    heard = typical_voices(extractor.sampling_rate) if recordings is None else recordings
    features = [extractor(clip, return_tensors="pt")["input_features"][0] for clip in heard]
    return PackedEncoder(plain, activation_ranges(plain, features, MARGIN))


def check_packing(precision: str) -> None:
    """Raises `PackingError` if `precision` does not exist, or this processor or torch cannot do it."""
    if precision not in PRECISIONS:
        raise PackingError(f"precision={precision!r} is not one of {', '.join(map(repr, PRECISIONS))}.")
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        raise PackingError("This torch comes without oneDNN, which packed models need: use the plain model.")
    # Without these instructions, products of 8-bit integers overflow 16 bits, and are slow.
    if precision == "int8" and not torch.cpu._is_vnni_supported():
        raise PackingError("precision='int8' needs a processor with AVX-512 VNNI: use 'float32'.")


class Scale(NamedTuple):
    """Real numbers as 8-bit integers: `x` is `round(x * gain + zero)`."""

    gain: float
    zero: int

    @classmethod
    def of(cls, lowest: float, highest: float) -> "Scale":
        """Returns the scale of the numbers from `lowest` to `highest`; what lies beyond becomes the nearest one."""
        lowest, highest = min(lowest, 0.0), max(highest, 1e-6)
        gain = STEPS / (highest - lowest)
        return cls(gain, round(-lowest * gain))

    def shift(self) -> float:
        """Returns what is to be added to `x * gain` before the fraction is cut off."""
        return self.zero + 0.5


class Range(NamedTuple):
    """The least and the greatest number in each channel, `(channels,)` both."""

    lowest: torch.Tensor
    highest: torch.Tensor

    def scale(self) -> Scale:
        """Returns the one scale that all channels fit into."""
        return Scale.of(self.lowest.min().item(), self.highest.max().item())

    def without(self, channels: torch.Tensor) -> "Range":
        """Returns the range of the other channels."""
        others = torch.ones(len(self.lowest), dtype=torch.bool).index_fill(0, channels, False)
        return Range(self.lowest[others], self.highest[others])


class PackedEncoder(WhisperSerEncoder):
    """`WhisperSerEncoder` for inference on a CPU, made of a plain one, which it does not change.

    It has neither parameters nor a state: it can be used, and not trained, moved, converted or saved.

    Args:
        plain: the encoder to pack, float32 on a CPU.
        ranges: of `activation_ranges`; with them products are of 8-bit integers, without them of float32.
    """

    conv1: Any
    conv2: Any

    def __init__(self, plain: WhisperSerEncoder, ranges: Mapping[str, Range] | None = None) -> None:
        nn.Module.__init__(self)
        self.config = plain.config
        self.layer_indices = plain.layer_indices
        self._positions = plain.embed_positions.weight.detach().clone()
        self._above = None if plain.layer_norm is None else _Norm(plain.layer_norm)
        self.conv1 = _Convolution(plain.conv1, None)
        self.conv2 = _Convolution(plain.conv2, None if ranges is None else ranges["conv2"].scale())
        self._blocks = [_Block(layer, f"layers.{index}", ranges) for index, layer in enumerate(plain.layers)]
        self.eval()

    def _run(self, mels: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Returns `(frames, layers, width)` of each log-mel chunk `(mel_frames, mels)`."""
        frames = [-(-len(mel) // 2) for mel in mels]
        hidden = self._convolved(mels, frames)
        read = []
        for index, block in enumerate(self._blocks, start=1):
            hidden = block(hidden, frames)
            if index in self.layer_indices:
                above = self._above if index == len(self._blocks) else None
                read.append(hidden if above is None else above(hidden))
        return torch.stack(read, dim=1)[: sum(frames)].split(frames)

    def _convolved(self, mels: list[torch.Tensor], frames: list[int]) -> torch.Tensor:
        """Returns the frames of all chunks with their positions, and zeros `(rounded_up(sum of frames), width)`.

        The chunks stand in one matrix. Each begins in an even row, behind a row of zeros at least: those which the
        convolutions see around a chunk alone.
        """
        taken = [len(mel) + 2 - len(mel) % 2 for mel in mels]
        starts = list(itertools.accumulate(taken, initial=2))
        rows = mels[0].new_zeros(2 * rounded_up(starts[-1] // 2 - 1) + 3, self.conv1.in_channels)
        for mel, start in zip(mels, starts, strict=False):
            rows[start : start + len(mel)] = mel
        hidden = self.conv1(rows, 1)  # its row r is of the rows around r + 1
        hidden[0] = 0
        for mel, start, end in zip(mels, starts, starts[1:], strict=False):
            hidden[start - 1 + len(mel) : end - 1] = 0
        hidden = self.conv2(hidden, 2)
        firsts = [start // 2 - 1 for start in starts]
        chunks = [hidden[first : first + n] + self._positions[:n] for first, n in zip(firsts, frames, strict=False)]
        return _filled_up(chunks)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Lets pass what changes nothing, such as `.to("cpu")`."""
        here, there = self._positions, fn(self._positions)
        if there.device != here.device or there.dtype != here.dtype:
            raise PackingError(
                f"A packed model stays float32 on its CPU, and cannot become {there.dtype} on {there.device}: move or "
                "convert the model that it was made of."
            )
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise PackingError("A packed model cannot be saved: save the model that it was made of, and pack it anew.")


SITES = ("self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2")
"""Products of a layer whose input int8 needs the range of; that of the queries is also that of keys and values."""


class _Block:
    """One layer of the encoder."""

    def __init__(self, layer: Any, name: str, ranges: Mapping[str, Range] | None) -> None:
        attention = layer.self_attn
        self.heads = attention.num_heads
        self.loud: tuple[_IntegerProduct, _FloatProduct] | None = None
        self.qkv: _FloatProduct | _IntegerProduct
        self.out: _FloatProduct | _IntegerProduct
        self.grow: _FloatProduct | _IntegerProduct
        self.shrink: _FloatProduct | _IntegerProduct
        if ranges is not None:
            self._make_integer(layer, {site: ranges[f"{name}.{site}"] for site in SITES})
            return
        self.attention_norm, self.mlp_norm = _Norm(layer.self_attn_layer_norm), _Norm(layer.final_layer_norm)
        self.qkv, self.out = _FloatProduct(*_joint(attention)), _FloatProduct(*_of(attention.out_proj))
        self.grow, self.shrink = _FloatProduct(*_of(layer.fc1), gelu=True), _FloatProduct(*_of(layer.fc2))
        self.joined: Callable[[torch.Tensor], torch.Tensor] = _same

    def _make_integer(self, layer: Any, ranges: Mapping[str, Range]) -> None:
        attention = layer.self_attn
        read, joined, grown = (ranges[site].scale() for site in SITES[:3])
        self.attention_norm, self.mlp_norm = (
            _Norm(layer.self_attn_layer_norm, read),
            _Norm(layer.final_layer_norm, grown),
        )
        # Attention averages values: scaled and shifted beforehand, its output is so, and only the fraction is left.
        weights, biases = _joint(attention)
        values = slice(2 * attention.embed_dim, None)
        weights[values] *= joined.gain
        biases[values] = biases[values] * joined.gain + joined.shift()
        self.qkv, self.joined = _IntegerProduct(weights, biases, read), _cut
        self.out = _IntegerProduct(*_of(attention.out_proj), joined)
        (grow, grow_bias), (shrink, shrink_bias) = _of(layer.fc1), _of(layer.fc2)
        loud = ranges["fc2"].highest.topk(min(LOUD_CHANNELS, len(grow) // 8)).indices
        shrunk = ranges["fc2"].without(loud).scale()
        self.loud = (
            _IntegerProduct(grow[loud], grow_bias[loud], grown, gelu=True),
            _FloatProduct(shrink[:, loud].contiguous(), torch.zeros_like(shrink_bias)),
        )
        self.grow = _IntegerProduct(grow, grow_bias, grown, gelu=True, result=shrunk)
        self.shrink = _IntegerProduct(shrink.index_fill(1, loud, 0), shrink_bias, shrunk)

    def __call__(self, hidden: torch.Tensor, frames: list[int]) -> torch.Tensor:
        """`(rows, width)` -> the same; the rows behind those of `frames` belong to no chunk."""
        attended = self._attended(self.qkv(self.attention_norm(hidden)), frames)
        hidden = self.out.added(self.joined(attended), hidden)
        normed = self.mlp_norm(hidden)
        hidden = self.shrink.added(self.grow(normed), hidden)
        return hidden if self.loud is None else self.loud[1].added(self.loud[0](normed), hidden)

    def _attended(self, qkv: torch.Tensor, frames: list[int]) -> torch.Tensor:
        """Returns attention within each chunk, those of one length together, `(rows, width)`."""
        results, begin = [], 0
        for length, chunks in itertools.groupby(frames):
            count = len(list(chunks))
            rows = qkv[begin : begin + count * length].view(count, length, 3, self.heads, -1)
            query, key, value = rows.permute(2, 0, 3, 1, 4)
            result = nn.functional.scaled_dot_product_attention(query, key, value)
            results.append(result.transpose(1, 2).reshape(count * length, -1))
            begin += count * length
        return _filled_up(results)


class _Norm:
    """LayerNorm; with a scale its result is 8-bit integers."""

    def __init__(self, norm: nn.LayerNorm, scale: Scale | None = None) -> None:
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight, self.bias = norm.weight.detach().clone(), norm.bias.detach().clone()
        self.finish: Callable[[torch.Tensor], torch.Tensor] = _same
        if scale is not None:
            self.weight, self.bias = self.weight * scale.gain, self.bias * scale.gain + scale.shift()
            self.finish = _cut

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.finish(nn.functional.layer_norm(hidden, self.shape, self.weight, self.bias, self.eps))


class _Convolution:
    """A convolution of width 3 over rows, and GELU, as one matrix product; with a scale of 8-bit integers."""

    def __init__(self, convolution: nn.Conv1d, scale: Scale | None) -> None:
        self.in_channels = convolution.in_channels
        weight = convolution.weight.detach().transpose(1, 2).flatten(1).contiguous()
        bias = _bias(convolution)
        self.scale = scale
        self.product = (
            _FloatProduct(weight, bias, gelu=True)
            if scale is None
            else _IntegerProduct(weight, bias, scale, gelu=True)
        )

    def __call__(self, rows: torch.Tensor, step: int) -> torch.Tensor:
        """`(rows, channels)` -> one row for every three from each `step`-th on."""
        if self.scale is not None:
            rows = _cut(rows.mul_(self.scale.gain).add_(self.scale.shift()))
        count, channels = (len(rows) - 3) // step + 1, rows.shape[1]
        return self.product(rows.as_strided((count, 3 * channels), (step * channels, 1)).contiguous())


class _FloatProduct:
    """`x W' + b`, perhaps with GELU, of float32 and with the weight packed."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, gelu: bool = False) -> None:
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_FRAMES), bias
        self.activation = GELU if gelu else NOTHING

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.activation)

    def added(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")


class _IntegerProduct:
    """`x W' + b`, perhaps with GELU, of 8-bit `x` and `W`; each row of `W` has a scale of its own.

    Args:
        weight: float32 `(out, in)`.
        given: the scale of `x`.
        result: the scale of 8-bit results; float32 without.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        given: Scale,
        gelu: bool = False,
        result: Scale | None = None,
    ) -> None:
        steps = weight.abs().amax(1).clamp(min=1e-8) / 127
        integers = (weight / steps.unsqueeze(1)).round().to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(integers, [TYPICAL_FRAMES, weight.shape[1]])
        self.given = (1 / given.gain, given.zero)
        self.weight = (packed, steps, torch.zeros(len(weight), dtype=torch.int64))
        self.bias = bias
        self.result = (1.0, 0, torch.float32) if result is None else (1 / result.gain, result.zero, torch.uint8)
        self.activation = GELU if gelu else NOTHING

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        multiply = torch.ops.onednn.qlinear_pointwise
        return multiply(x, *self.given, *self.weight, self.bias, *self.result, *self.activation)

    def added(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        multiply = torch.ops.onednn.qlinear_pointwise.binary
        return multiply(x, *self.given, *self.weight, residual, self.bias, *self.result, 1.0, 0, "add", 1.0, *NOTHING)


def _joint(attention: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weight and bias of queries, keys and values as one."""
    parts = [_of(linear) for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
    return torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])


def _of(linear: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    return linear.weight.detach().clone(), _bias(linear)


def _bias(module: nn.Linear | nn.Conv1d) -> torch.Tensor:
    weight = module.weight.detach()
    return weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach().clone()


def _cut(x: torch.Tensor) -> torch.Tensor:
    """Returns scaled and shifted numbers without their fraction, 8 bits each; changes `x`."""
    return x.clamp_(0, STEPS).to(torch.uint8)


def rounded_up(rows: int) -> int:
    """Returns how many rows products are made of instead of `rows`, 4 % more at most from 200 on.

    For every other number of rows oneDNN makes code anew, once: 10 ms and 4 MB for an encoder of whisper-base.
    """
    step = max(8, 1 << max(0, rows.bit_length() - 6))
    return -(-rows // step) * step


def _filled_up(parts: list[torch.Tensor]) -> torch.Tensor:
    """Returns the parts joined, with zeros behind up to a number of rows that others have, too."""
    rows = sum(map(len, parts))
    more = rounded_up(rows) - rows
    if more:
        parts = [*parts, parts[0].new_zeros(more, parts[0].shape[1])]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def typical_voices(sampling_rate: int) -> list[np.ndarray]:
    """Returns voice-like waveforms: harmonics of wavering pitches in syllables, soft and loud, noise, and a pause."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * sampling_rate) / sampling_rate
    voices = []
    for pitch, level in ((90, 0.3), (120, 0.05), (160, 0.1), (220, 0.3), (320, 0.01)):
        phase = 2 * np.pi * pitch * (time + 0.01 * np.sin(2 * np.pi * 3 * time))
        voice = sum(np.sin(k * phase) / k for k in range(1, 12))
        syllables = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time + rng.uniform(0, 6))
        voices.append(level * (voice * syllables + 0.03 * rng.standard_normal(len(time))))
    voices.append(0.1 * rng.standard_normal(len(time)))
    voices.append(np.concatenate([np.zeros(sampling_rate), voices[0][:sampling_rate], np.zeros(sampling_rate)]))
    return [voice.astype(np.float32) for voice in voices]


@torch.no_grad()
def activation_ranges(encoder: WhisperSerEncoder, features: Sequence[torch.Tensor], margin: float) -> dict[str, Range]:
    """Returns the range of what enters each product of the encoder, by the product's name.

    Args:
        encoder: a plain one.
        features: log-mel `(mel_frames, mels)` of the recordings to find it with.
        margin: by which both ends are moved away from 0.
    """
    ranges: dict[str, Range] = {}

    def note(name: str, channels: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            values = inputs[0].movedim(channels, -1).flatten(0, -2)
            found = Range(margin * values.amin(0), margin * values.amax(0))
            before = ranges.get(name, found)
            ranges[name] = Range(
                torch.minimum(found.lowest, before.lowest), torch.maximum(found.highest, before.highest)
            )

        return hook

    hooks = [encoder.conv2.register_forward_pre_hook(note("conv2", 1))]
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear):
            hooks.append(module.register_forward_pre_hook(note(name, -1)))
    try:
        for mels in features:
            encoder(mels.unsqueeze(0))
    finally:
        for registered in hooks:
            registered.remove()
    return ranges
