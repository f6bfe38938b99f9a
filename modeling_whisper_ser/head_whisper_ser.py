"""From encoder states to one vector: layer mixing, projector with LayerNorm, pooling. A model has one or several."""

import torch
from torch import nn

from .configuration_whisper_ser import WhisperSerConfig
from .mixing_whisper_ser import AttendedLayers, JoinedLayers, WeightedLayers, build_mixing
from .pooling_whisper_ser import Packing, build_pooling


class HeadParts:
    """The parts of a head, and what they do. A model without ensemble is its own head: its parts bear no prefix.

    Attributes:
        pools_states: the mixed states are pooled and then projected, instead of the other way round.
        frame_width: of what is pooled.
    """

    training: bool
    pools_states: bool
    frame_width: int
    input_dropout: nn.Dropout
    mixing: JoinedLayers | WeightedLayers | AttendedLayers
    projector: nn.Linear
    projector_norm: nn.LayerNorm
    pooling: nn.Module
    pooled_norm: nn.Module

    def build_parts(self, config: WhisperSerConfig) -> None:
        """Adds the parts, with weights to be trained."""
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.mixing = build_mixing(config)
        self.pools_states = config.pooling_type == "statistics"
        self.frame_width = self.mixing.width if self.pools_states else config.d_model
        # Weights are drawn in this order: another one would give another model of the same seed.
        self.projector = nn.Linear((2 if self.pools_states else 1) * self.mixing.width, config.d_model)
        self.projector_norm = nn.LayerNorm(config.d_model)
        self.pooling = build_pooling(config, self.mixing.width)
        self.pooled_norm = nn.LayerNorm(config.d_model) if config.layer_norm_after_pooling else nn.Identity()

    def project(self, states: torch.Tensor, packing: Packing, owned: bool = False) -> torch.Tensor:
        """Returns the frame vectors `(frames, frame_width)` of standardised packed states `(layers, frames, width)`.

        Args:
            owned: nobody else reads `states`, which may be changed.
        """
        if self.pools_states:
            return self.mixing(states)
        if self.training and self.input_dropout.p > 0:
            states = states if owned else states.clone()
            gains = self.input_dropout(states.new_ones(len(packing.mask), states.shape[0], 1, states.shape[2]))
            ends = packing.mask.sum(1).cumsum(0).tolist()
            for start, end, gain in zip([0, *ends], ends, gains, strict=False):
                states[:, start:end].mul_(gain)
        return self.projector_norm(self.projector(self.mixing(states)))

    def pool(self, vectors: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the pooled vectors `(batch, d_model)`, and attention `(batch, heads, frames)` if there is any."""
        pooled, attentions = self.pooling(vectors, packing)
        if self.pools_states:
            pooled = self.projector_norm(self.projector(self.input_dropout(pooled)))
        return self.pooled_norm(pooled), attentions


class Member(HeadParts, nn.Module):
    """One of several heads: it reads `layers`, of those that the model reads."""

    def __init__(self, config: WhisperSerConfig, read: list[int]) -> None:
        super().__init__()
        self.rows = [read.index(layer) for layer in config.layer_indices]
        self.build_parts(config)

    def project(self, states: torch.Tensor, packing: Packing, owned: bool = False) -> torch.Tensor:
        """As every head's, of the states of all layers that the model reads."""
        if len(self.rows) == len(states):
            return super().project(states, packing, owned)
        return super().project(states[self.rows], packing, owned=True)
