"""From the frames of an utterance to one vector: the paper's poolings and one more, each obeying the mask.

Every pooling takes `hidden` `(batch, frames, d_model)` and `mask` `(batch, frames)`, true on real frames, and returns
the pooled vector `(batch, d_model)` and its attention weights `(batch, heads, frames)`, or `None` where it has none.
"""

import math

import torch
from torch import nn

from .configuration_whisper_ser import WhisperSerConfig


class MeanPooling(nn.Module):
    """The mean over the real frames."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return masked_mean(hidden, mask), None


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over the real frames (x-vectors, Snyder et al. 2018), mapped to `d_model`."""

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        self.out = nn.Linear(2 * config.d_model, config.d_model)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        mean = masked_mean(hidden, mask)
        variance = masked_mean((hidden - mean.unsqueeze(1)).square(), mask)
        # The square root has no finite slope at 0, where one-frame utterances are.
        deviation = (variance + 1e-6).sqrt()
        return self.out(torch.cat([mean, deviation], dim=-1)), None


class _MultiHeadPooling(nn.Module):
    """What both attention poolings share: heads of values, softmax over real frames, heads joined to `d_model`."""

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        self.heads = config.num_pooling_heads
        self.head_dim = config.pooling_head_dim
        self.inner = self.heads * self.head_dim
        self.scale = 1 / math.sqrt(self.head_dim) if config.scale_scores else 1.0
        self.tanh_scores = config.score_activation == "tanh"
        self.dropout = nn.Dropout(config.pooling_dropout)
        self.value = nn.Linear(config.d_model, self.inner, bias=False)
        self.out = nn.Linear(self.inner, config.d_model, bias=False)

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, heads * head_dim)` -> `(batch, heads, frames, head_dim)`."""
        return projected.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def _weights(self, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns attention weights `(batch, heads, frames)` of `scores` of that shape; padding gets exactly 0."""
        scores = scores * self.scale
        if self.tanh_scores:
            scores = scores.tanh()
        return scores.masked_fill(~mask.unsqueeze(1), float("-inf")).softmax(dim=-1)

    def _join(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Returns `(batch, d_model)`; weights are `(batch, heads, frames)`, values `(batch, heads, frames, dim)`."""
        return self.out((weights.unsqueeze(2) @ values).flatten(1))


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

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        activated = self._split(self.dropout(self.hidden(hidden).tanh()))
        scores = (activated * self.score_weight[:, None]).sum(-1) + self.score_bias[:, None]
        weights = self._weights(scores, mask)
        return self._join(weights, self._split(self.value(hidden))), weights


class QKVPooling(_MultiHeadPooling):
    """Multi-head QKV attention pooling (paper, section 3.2.2, equation 8): the query is the mean of the frames."""

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__(config)
        self.query = nn.Linear(config.d_model, self.inner, bias=False)
        self.key = nn.Linear(config.d_model, self.inner, bias=False)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self._split(self.dropout(self.query(masked_mean(hidden, mask).unsqueeze(1))))
        keys = self._split(self.dropout(self.key(hidden)))
        values = self._split(self.dropout(self.value(hidden)))
        weights = self._weights((query @ keys.transpose(-1, -2)).squeeze(2), mask)
        return self._join(weights, values), weights


def masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns the mean `(batch, d_model)` of `hidden` `(batch, frames, d_model)` where `mask` is true."""
    real = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * real).sum(1) / real.sum(1)


def build_pooling(config: WhisperSerConfig) -> nn.Module:
    """Returns the pooling that `config.pooling_type` names."""
    match config.pooling_type:
        case "mean":
            return MeanPooling()
        case "statistics":
            return StatisticsPooling(config)
        case "attentive":
            return AttentivePooling(config)
        case _:
            return QKVPooling(config)
