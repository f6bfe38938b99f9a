"""How the states of several encoder layers become one: each takes packed `(layers, frames, width)`, standardised."""

import torch
from torch import nn

from .configuration_whisper_ser import WhisperSerConfig


class JoinedLayers(nn.Module):
    """The layers side by side, `(frames, layers * width)`; a single layer as it is."""

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        self.width = len(config.layer_indices) * config.encoder_config.d_model

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states[0] if len(states) == 1 else states.transpose(0, 1).flatten(1)


class WeightedLayers(nn.Module):
    """A learnt weighted mean of the layers, `(frames, width)`: softmax weights over layers brought to one scale each.

    As in SUPERB (Yang et al. 2021) and for emotion Pepino et al. 2021. Without the LayerNorm, which has no weights of
    its own, the layer of the largest states would count most whatever its weight.
    """

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        self.width = config.encoder_config.d_model
        self.layer_weights = nn.Parameter(torch.zeros(len(config.layer_indices)))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        normalised = nn.functional.layer_norm(states, states.shape[-1:])
        return torch.einsum("l,lfw->fw", self.layer_weights.softmax(0), normalised)


class AttendedLayers(nn.Module):
    """A weighted mean of the layers, `(frames, width)`, whose weights each frame chooses: attention over layers."""

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        self.width = config.encoder_config.d_model
        self.score = nn.Linear(self.width, 1, bias=False)
        self.layer_bias = nn.Parameter(torch.zeros(len(config.layer_indices)))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        normalised = nn.functional.layer_norm(states, states.shape[-1:])
        weights = (self.score(normalised).squeeze(-1) + self.layer_bias.unsqueeze(1)).softmax(0)
        return torch.einsum("lf,lfw->fw", weights, normalised)


def build_mixing(config: WhisperSerConfig) -> JoinedLayers | WeightedLayers | AttendedLayers:
    """Returns the mixing that `config.layer_mixing` names."""
    match config.layer_mixing:
        case "weighted":
            return WeightedLayers(config)
        case "attention":
            return AttendedLayers(config)
        case _:
            return JoinedLayers(config)
