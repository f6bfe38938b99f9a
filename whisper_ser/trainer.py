"""The Hugging Face Trainer with what it lacks for small corpora: averaged weights, and rates for trained layers."""

import contextlib
import re
from typing import Any

import torch
from transformers import Trainer

from whisper_ser.arguments import SerTrainingArguments
from whisper_ser.averaging import WeightAverage
from whisper_ser.files import saving


class SerTrainer(Trainer):
    """Evaluates and saves averaged weights where `ema_decay` asks for them; groups parameters of encoder layers."""

    args: SerTrainingArguments

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        decay = self.args.ema_decay
        self.average = None if decay is None else WeightAverage(decay)
        if self.average:
            self.add_callback(self.average)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Returns the optimizer of transformers, its groups parted by the rates of encoder layers."""
        optimizer = super().create_optimizer(model)
        settings = (self.args.encoder_learning_rate, self.args.encoder_weight_decay, self.args.layerwise_lr_decay)
        if any(setting is not None for setting in settings):
            trained: Any = self.model
            names = {weights: name for name, weights in trained.named_parameters()}
            layers = len(trained.base_model.encoder.layers)
            optimizer.param_groups = part_groups(optimizer.param_groups, names, layers, self.args)
        return optimizer

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """As in transformers, of the averaged weights; callbacks see them, too."""
        if self.average is None:
            return super().evaluate(*arguments, **options)
        with self.average.in_place():
            return super().evaluate(*arguments, **options)

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        averaged = self.average.in_place() if self.average else contextlib.nullcontext()
        with saving(str(self.args.output_dir)), averaged:
            super()._save_checkpoint(*arguments, **options)


def part_groups(
    groups: list[dict[str, Any]], names: dict[torch.nn.Parameter, str], layers: int, settings: SerTrainingArguments
) -> list[dict[str, Any]]:
    """Returns the parameter groups, those of the encoder parted by layer with their own learning rate and decay.

    Args:
        groups: of an optimizer; one without weight decay (biases and norms) stays without.
        names: of all parameters of the model.
        layers: of the encoder that are kept. The top one learns at `encoder_learning_rate`, each below it at
            `layerwise_lr_decay` times the rate of the one above.
    """
    rate, decay = settings.encoder_learning_rate, settings.encoder_weight_decay
    parted: list[dict[str, Any]] = []
    for group in groups:
        of_depth: dict[int | None, list[torch.nn.Parameter]] = {}
        for weights in group["params"]:
            of_depth.setdefault(_depth(names[weights], layers), []).append(weights)
        for depth, members in of_depth.items():
            own: dict[str, Any] = {}
            if depth is not None:
                top = group["lr"] if rate is None else rate
                own["lr"] = top * (settings.layerwise_lr_decay or 1.0) ** depth
                if decay is not None and group["weight_decay"]:
                    own["weight_decay"] = decay
            parted.append({**group, **own, "params": members})
    return parted


def _depth(name: str, layers: int) -> int | None:
    """Returns how many layers are above that of an encoder's parameter; `None` for parameters of the head."""
    if ".encoder." not in name:
        return None
    number = re.search(r"\.encoder\.layers\.(\d+)\.", name)
    return layers - 1 - int(number[1]) if number else 0
