"""From the frames of an utterance to one vector: the paper's poolings and one more.

Frames come packed: those of all utterances of a batch joined, without padding. Every pooling takes `hidden`
`(frames, d_model)` and the `Packing` that says whose they are, and returns the pooled vectors `(batch, d_model)` and
their attention weights `(batch, heads, longest)`, 0 behind a shorter utterance, or `None` where it has none.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from .configuration_whisper_ser import WhisperSerConfig


class Packing(NamedTuple):
    """Whose the packed frames are.

    Attributes:
        mask: `(batch, longest)`, true on real frames, which come first.
        places: of each packed frame in the flattened mask `(frames,)`.
        owners: of each packed frame, as an index into the batch `(frames,)`.
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
        flat = padded.flatten(0, 1)
        return flat if len(self.places) == len(flat) else flat.index_select(0, self.places)

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """`(frames, ...)` -> `(batch, longest, ...)`, zeros behind a shorter utterance."""
        if len(packed) != self.mask.numel():
            packed = packed.new_zeros(self.mask.numel(), *packed.shape[1:]).index_copy(0, self.places, packed)
        return packed.unflatten(0, self.mask.shape)

    def mean(self, packed: torch.Tensor) -> torch.Tensor:
        """`(frames, channels)` -> the mean of each utterance `(batch, channels)`."""
        # A product with a small dense matrix: adding row by row is many times slower.
        mine = self.owners == torch.arange(len(self.mask), device=packed.device).unsqueeze(1)
        return (mine / self.mask.sum(1, keepdim=True)).to(packed.dtype) @ packed

    def max(self, packed: torch.Tensor) -> torch.Tensor:
        """`(frames, channels)` -> the maximum of each utterance `(batch, channels)`."""
        return self.pad(packed).masked_fill(~self.mask.unsqueeze(2), float("-inf")).amax(1)


class MeanPooling(nn.Module):
    """The mean over the frames."""

    def forward(self, hidden: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        return packing.mean(hidden), None


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over the frames of the states themselves, `(batch, 2 * width)`.

    What comes before a projector, as in x-vectors (Snyder et al. 2018), each number standardised over utterances: the
    deviations of a channel differ far less from utterance to utterance than they are large.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * width))
        self.register_buffer("deviation", torch.ones(2 * width))

    def forward(self, hidden: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        return (self.statistics(hidden, packing) - self.mean) / self.deviation, None

    def statistics(self, hidden: torch.Tensor, packing: Packing) -> torch.Tensor:
        """`(frames, width)` -> mean and deviation of each utterance, side by side, as they are."""
        mean = packing.mean(hidden)
        # States are standardised, so that no mean dwarfs its deviation; a difference of each frame would cost as much
        # again.
        variance = (packing.mean(hidden.square()) - mean.square()).clamp(min=0)
        return torch.cat([mean, (variance + 1e-6).sqrt()], dim=-1)

    @torch.no_grad()
    def fit(self, statistics: Iterable[torch.Tensor]) -> None:
        """Takes mean and deviation over utterances from what `statistics` returned for each `(1, 2 * width)`."""
        count, total, squares = 0, torch.zeros(self.mean.shape).double(), torch.zeros(self.mean.shape).double()
        for (vector,) in statistics:
            count += 1
            total += vector
            squares += vector.double().square()
        mean = total / count
        self.mean.copy_(mean)
        self.deviation.copy_((squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1e-3))


class _MultiHeadPooling(nn.Module):
    """What both attention poolings share: heads of values, softmax over real frames, heads joined to `d_model`."""

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
        scores = scores.transpose(1, 2) * self.scale
        if self.tanh_scores:
            scores = scores.tanh()
        return scores.masked_fill(~packing.mask.unsqueeze(1), float("-inf")).softmax(dim=-1)

    def _join(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Returns `(batch, d_model)`; `values` are padded, `(batch, longest, heads, head_dim)`."""
        mean = _averages(weights, values)
        if not self.statistics:
            return self.out(mean.flatten(1))
        variance = _averages(weights, (values - mean.unsqueeze(1)).square())
        # The square root has no finite slope at 0, where one-frame utterances are.
        return self.out(torch.cat([mean, (variance + 1e-6).sqrt()], dim=-1).flatten(1))

    def _join_hidden(self, weights: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Returns `_join` of the values of `hidden` `(batch, longest, d_model)`.

        An average commutes with the map to the values: one vector a head is mapped, and no frame's value is formed.
        """
        if self.statistics:
            return self._join(weights, self._split(self.value(hidden)))
        return self.out(torch.einsum("bhd,hvd->bhv", weights @ hidden, self._by_head(self.value)).flatten(1))

    def _by_head(self, linear: nn.Linear) -> torch.Tensor:
        """Returns the weight of a map to the heads as `(heads, head_dim, d_model)`."""
        return linear.weight.unflatten(0, (self.heads, self.head_dim))


def _averages(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Returns the mean `(batch, heads, head_dim)` of `values` under `weights` `(batch, heads, longest)`."""
    return (weights.unsqueeze(2) @ values.transpose(1, 2)).squeeze(2)


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
        """Starts the scores as `nn.Linear(head_dim, 1)` would."""
        bound = 1 / math.sqrt(self.head_dim)
        nn.init.uniform_(self.score_weight, -bound, bound)
        nn.init.zeros_(self.score_bias)

    def forward(self, hidden: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        weights = self._weights(packing.pad(self._scores(self.hidden(hidden))), packing)
        return self._join_hidden(weights, packing.pad(hidden)), weights

    def _scores(self, activated: torch.Tensor) -> torch.Tensor:
        """`(frames, heads * head_dim)` before the tanh -> `(frames, heads)`."""
        return (self._split(self.dropout(activated.tanh())) * self.score_weight).sum(-1) + self.score_bias


class QKVPooling(_MultiHeadPooling):
    """Multi-head QKV attention pooling (paper, section 3.2.2, equation 8).

    In the paper the query is the mean of the frames; other sources of queries bring heads of their own.
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
        """Starts learnt queries at the scale of those that are projected."""
        if "learnt" in self.sources:
            nn.init.normal_(self.learnt_query, std=1 / math.sqrt(3))

    def forward(self, hidden: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self._split(self.dropout(self._queries(hidden, packing)))
        if self.training:
            # Dropout acts on each frame's key and value; and packed frames have no padded hidden states to multiply.
            joint = nn.functional.linear(hidden, torch.cat([self.key.weight, self.value.weight]))
            keys, values = (self._split(x) for x in packing.pad(self.dropout(joint)).split(self.inner, dim=-1))
            weights = self._weights((keys * query.unsqueeze(1)).sum(-1), packing)
            return self._join(weights, values), weights
        # One query a head: q . (W_K h) = (W_K' q) . h, so no frame's key is formed.
        directions = torch.einsum("bhk,hkd->bhd", query, self._by_head(self.key))
        padded = packing.pad(hidden)
        weights = self._weights(padded @ directions.transpose(1, 2), packing)
        return self._join_hidden(weights, padded), weights

    def _queries(self, hidden: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Returns the queries of all sources `(batch, heads * head_dim)`."""
        queries = []
        for source in self.sources:
            if source == "learnt":
                queries.append(self.learnt_query.expand(len(packing.mask), -1))
            else:
                summary = packing.mean(hidden) if source == "mean" else packing.max(hidden)
                queries.append(self.query[source](summary))
        return torch.cat(queries, dim=-1)


def build_pooling(config: WhisperSerConfig, width: int) -> nn.Module:
    """Returns the pooling that `config.pooling_type` names, of mixed states of that width."""
    match config.pooling_type:
        case "mean":
            return MeanPooling()
        case "statistics":
            return StatisticsPooling(width)
        case "attentive":
            return AttentivePooling(config)
        case _:
            return QKVPooling(config)
