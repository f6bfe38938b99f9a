"""Standardisation, layer mixing and pooling: from the encoder states of an utterance to one vector.

Frames come packed: those of all utterances of a batch joined, without padding. A mixing makes one sequence of frames
of the layers read, `(layers, frames, width)` -> `(frames, channels)`. A pooling takes `hidden` `(frames, d_model)` and
the `Packing` that says which utterance each frame belongs to. It returns the pooled vectors `(batch, d_model)` and the
attention weights `(batch, heads, longest)`, 0 behind a shorter utterance, or `None` if it has no attention.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from .configuration_whisper_ser import WhisperSerConfig


class Packing(NamedTuple):
    """Which utterance each packed frame belongs to.

    Attributes:
        mask: `(batch, longest)`, true on real frames, which come first.
        places: the index of each packed frame in the flattened mask `(frames,)`.
        owners: the utterance of each packed frame, as an index into the batch `(frames,)`.
    """

    mask: torch.Tensor
    places: torch.Tensor
    owners: torch.Tensor

    @classmethod
    def of(cls, mask: torch.Tensor) -> "Packing":
        """Returns the packing of the frames that `mask` `(batch, longest)` marks."""
        places = mask.flatten().nonzero().squeeze(1)
        return cls(mask, places, places // mask.shape[1])

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """`(batch, longest, ...)` -> `(frames, ...)`."""
        flat = padded.flatten(0, 1)  # (batch * longest, ...)
        return flat if len(self.places) == len(flat) else flat.index_select(0, self.places)

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """`(frames, ...)` -> `(batch, longest, ...)`, zeros behind a shorter utterance."""
        if len(packed) != self.mask.numel():
            packed = packed.new_zeros(self.mask.numel(), *packed.shape[1:]).index_copy(0, self.places, packed)
        return packed.unflatten(0, self.mask.shape)

    def mean(self, packed: torch.Tensor) -> torch.Tensor:
        """`(frames, channels)` -> the mean of each utterance `(batch, channels)`."""
        # A product with a small dense matrix: adding row by row is many times slower.
        owned = self.owners == torch.arange(len(self.mask), device=packed.device).unsqueeze(1)  # (batch, frames)
        return (owned / self.mask.sum(1, keepdim=True)).to(packed.dtype) @ packed  # (batch, channels)

    def max(self, packed: torch.Tensor) -> torch.Tensor:
        """`(frames, channels)` -> the maximum of each utterance `(batch, channels)`."""
        return self.pad(packed).masked_fill(~self.mask.unsqueeze(2), float("-inf")).amax(1)


class Standardisation(nn.Module):
    """Standardises channels to mean 0 and deviation 1; the identity until it is fitted.

    Args:
        shape: of mean and deviation `(..., channels)`.
        smallest: deviation that is divided by at least. A constant channel has no information; dividing by its own
            deviation would only magnify rounding errors.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, shape: tuple[int, ...], smallest: float = 1e-5) -> None:
        super().__init__()
        self.smallest = smallest
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Standardises `(..., rows, channels)`."""
        scale = self.deviation.reciprocal()
        # One pass over the values: (values - mean) / deviation.
        return torch.addcmul((-self.mean * scale).unsqueeze(-2), values, scale.unsqueeze(-2))

    @torch.no_grad()
    def fit(self, parts: Iterable[torch.Tensor]) -> None:
        """Sets mean and deviation to those over the rows of all `parts` `(..., rows, channels)`.

        Moments are merged part by part (Chan et al. 1979), which is stable for means far above the deviation.

        Raises:
            ValueError: there are no parts.
        """
        count = 0
        mean, squares = (torch.zeros(self.mean.shape, dtype=torch.float64) for _ in range(2))
        for part in parts:
            variance, centre = (x.double() for x in torch.var_mean(part.float(), dim=-2, correction=0))
            rows = part.shape[-2]
            count += rows
            distance = centre - mean  # (..., channels)
            mean += distance * (rows / count)
            squares += rows * (variance + distance.square() * (1 - rows / count))
        if count == 0:
            raise ValueError("A standardisation needs the states of at least one utterance.")
        self.mean.copy_(mean)
        self.deviation.copy_((squares / count).sqrt().clamp(min=self.smallest))


class JoinedLayers(nn.Module):
    """The layers side by side, `(frames, layers * width)`; a single layer is returned unchanged."""

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        self.width = len(config.layer_indices) * config.encoder_config.d_model

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states[0] if len(states) == 1 else states.transpose(0, 1).flatten(1)


class WeightedLayers(nn.Module):
    """A learnt weighted mean of the layers, `(frames, width)`: softmax weights over normalised layers.

    As in SUPERB (Yang et al. 2021) and, for emotion, Pepino et al. 2021. The LayerNorm has no weights of its own;
    without it the layer with the largest states would dominate whatever its weight.
    """

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        self.width = config.encoder_config.d_model
        self.layer_weights = nn.Parameter(torch.zeros(len(config.layer_indices)))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        normalised = nn.functional.layer_norm(states, states.shape[-1:])  # (layers, frames, width)
        return torch.einsum("l,lfw->fw", self.layer_weights.softmax(0), normalised)  # (frames, width)


class AttendedLayers(nn.Module):
    """A weighted mean of the layers, `(frames, width)`, whose weights depend on the frame: attention over layers."""

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        self.width = config.encoder_config.d_model
        self.score = nn.Linear(self.width, 1, bias=False)
        self.layer_bias = nn.Parameter(torch.zeros(len(config.layer_indices)))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        normalised = nn.functional.layer_norm(states, states.shape[-1:])  # (layers, frames, width)
        scores = self.score(normalised).squeeze(-1) + self.layer_bias.unsqueeze(1)  # (layers, frames)
        return torch.einsum("lf,lfw->fw", scores.softmax(0), normalised)  # (frames, width)


def build_mixing(config: WhisperSerConfig) -> JoinedLayers | WeightedLayers | AttendedLayers:
    """Returns the module that `config.layer_mixing` names."""
    match config.layer_mixing:
        case "weighted":
            return WeightedLayers(config)
        case "attention":
            return AttendedLayers(config)
        case _:
            return JoinedLayers(config)


class MeanPooling(nn.Module):
    """The mean over the frames."""

    def forward(self, hidden: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        return packing.mean(hidden), None


class StatisticsPooling(Standardisation):
    """Mean and standard deviation of the states over the frames, `(batch, 2 * width)`.

    The projector comes after it, as in x-vectors (Snyder et al. 2018). Each of the `2 * width` statistics is
    standardised over the training utterances: a channel's deviation is large, and varies little between utterances.
    """

    def __init__(self, width: int) -> None:
        super().__init__((2 * width,), smallest=1e-3)

    def forward(self, hidden: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return super().forward(self.statistics(hidden, packing)), None

    def statistics(self, hidden: torch.Tensor, packing: Packing) -> torch.Tensor:
        """`(frames, width)` -> mean and deviation of each utterance, not yet standardised, `(batch, 2 * width)`."""
        mean = packing.mean(hidden)  # (batch, width)
        # E[x^2] - E[x]^2 is accurate enough because the states are standardised, and costs half of E[(x - E[x])^2].
        variance = (packing.mean(hidden.square()) - mean.square()).clamp(min=0)  # (batch, width)
        return torch.cat([mean, (variance + 1e-6).sqrt()], dim=-1)


class _MultiHeadPooling(nn.Module):
    """The common part of both attention poolings: values per head, softmax over real frames, output projection."""

    def __init__(self, config: WhisperSerConfig, sources: int = 1) -> None:
        super().__init__()
        self.heads = sources * config.num_pooling_heads
        self.head_dim = config.pooling_head_dim
        self.inner = self.heads * self.head_dim
        self.scale = 1 / math.sqrt(self.head_dim) if config.scale_scores else 1.0
        self.tanh_scores = config.score_activation == "tanh"
        self.statistics = config.pooling_statistics
        self.dropout = nn.Dropout(config.pooling_dropout)
        self.value = nn.Linear(config.d_model, self.inner, bias=False)
        self.out = nn.Linear(self.inner * (2 if self.statistics else 1), config.d_model, bias=False)

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        """`(..., heads * head_dim)` -> `(..., heads, head_dim)`."""
        return projected.unflatten(-1, (self.heads, self.head_dim))

    def _weights(self, scores: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns attention weights `(batch, heads, longest)` of padded `scores` `(batch, longest, heads)`."""
        scores = scores.transpose(1, 2) * self.scale  # (batch, heads, longest)
        if self.tanh_scores:
            scores = scores.tanh()
        return scores.masked_fill(~packing.mask.unsqueeze(1), float("-inf")).softmax(dim=-1)

    def _attend(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Returns `(batch, d_model)`: the values `(batch, longest, inner)` averaged under the weights of each head."""
        values = self._split(values)  # (batch, longest, heads, head_dim)
        mean = torch.einsum("bhf,bfhd->bhd", weights, values)  # (batch, heads, head_dim)
        if not self.statistics:
            return self.out(mean.flatten(1))
        squares = (values - mean.unsqueeze(1)).square()  # (batch, longest, heads, head_dim)
        variance = torch.einsum("bhf,bfhd->bhd", weights, squares)  # (batch, heads, head_dim)
        # The gradient of the square root is infinite at 0, the variance of a one-frame utterance.
        return self.out(torch.cat([mean, (variance + 1e-6).sqrt()], dim=-1).flatten(1))


class AttentivePooling(_MultiHeadPooling):
    """Multi-head attentive average pooling (paper, section 3.2.1, equations 4 to 7).

    Head i scores frame t with `w2 . tanh(h_t W1 + b) + k` and averages `h_t W_V` with the softmax of its scores.
    """

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__(config)
        self.hidden = nn.Linear(config.d_model, self.inner)
        self.score_weight = nn.Parameter(torch.empty(self.heads, self.head_dim))
        self.score_bias = nn.Parameter(torch.zeros(self.heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the score weights as `nn.Linear(head_dim, 1)` does."""
        bound = 1 / math.sqrt(self.head_dim)
        nn.init.uniform_(self.score_weight, -bound, bound)
        nn.init.zeros_(self.score_bias)

    def forward(self, hidden: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        activated = self._split(self.dropout(self.hidden(hidden).tanh()))  # (frames, heads, head_dim)
        scores = (activated * self.score_weight).sum(-1) + self.score_bias  # (frames, heads)
        weights = self._weights(packing.pad(scores), packing)  # (batch, heads, longest)
        return self._attend(weights, packing.pad(self.value(hidden))), weights


class QKVPooling(_MultiHeadPooling):
    """Multi-head QKV attention pooling (paper, section 3.2.2, equation 8).

    The query is the mean of the frames. Models saved by version 0.1 may have other `pooling_queries`: each of them has
    `num_pooling_heads` heads of its own.
    """

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__(config, len(config.pooling_queries))
        self.sources = tuple(config.pooling_queries)
        of_source = config.num_pooling_heads * config.pooling_head_dim
        self.query = nn.ModuleDict(
            {source: nn.Linear(config.d_model, of_source, bias=False) for source in self.sources if source != "learnt"}
        )
        if "learnt" in self.sources:
            self.learnt_query = nn.Parameter(torch.empty(of_source))
        self.key = nn.Linear(config.d_model, self.inner, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises learnt queries with the standard deviation of projected ones."""
        if "learnt" in self.sources:
            nn.init.normal_(self.learnt_query, std=1 / math.sqrt(3))

    def forward(self, hidden: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self._split(self.dropout(self._queries(hidden, packing)))  # (batch, heads, head_dim)
        projected = self.dropout(torch.cat([self.key(hidden), self.value(hidden)], dim=-1))  # (frames, 2 * inner)
        keys, values = packing.pad(projected).split(self.inner, dim=-1)  # each (batch, longest, inner)
        scores = (self._split(keys) * query.unsqueeze(1)).sum(-1)  # (batch, longest, heads)
        weights = self._weights(scores, packing)  # (batch, heads, longest)
        return self._attend(weights, values), weights

    def _queries(self, hidden: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the queries of all sources `(batch, heads * head_dim)`."""
        queries = []
        for source in self.sources:
            if source == "learnt":
                queries.append(self.learnt_query.expand(packing.mask.shape[0], -1))
            else:
                summary = packing.mean(hidden) if source == "mean" else packing.max(hidden)  # (batch, d_model)
                queries.append(self.query[source](summary))
        return torch.cat(queries, dim=-1)


def build_pooling(config: WhisperSerConfig, width: int) -> nn.Module:
    """Returns the module that `config.pooling_type` names; `statistics` pools mixed states of `width` channels."""
    match config.pooling_type:
        case "mean":
            return MeanPooling()
        case "statistics":
            return StatisticsPooling(width)
        case "attentive":
            return AttentivePooling(config)
        case _:
            return QKVPooling(config)
