"""An exponential moving average of the weights during training (Polyak and Juditsky 1992).

It lies in the state of the optimizer, beside the moments of each parameter, and so in every checkpoint of the Trainer.
A checkpoint holds the average as its model, since that is what was evaluated, and the weights in training as the
optimizer's state: whoever resumes exchanges the two and goes on as if never interrupted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

STATE = "average"


class WeightAverage(TrainerCallback):
    """Averages the trained weights: after the first step they are the average, after each other step

    `average = decay * average + (1 - decay) * weights`.
    """

    def __init__(self, decay: float) -> None:
        self._update = get_ema_multi_avg_fn(decay)
        self._optimizer: Any = None
        self._in_place = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        self._optimizer = context["optimizer"]
        # Where there is an average, it was loaded from a checkpoint, which holds both the other way round.
        self.exchange()

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        # Before its first step an optimizer takes any state for its own.
        states = [(self._optimizer.state[weights], weights) for weights in self._trained()]
        for state_of, weights in states:
            if state_of and STATE not in state_of:
                state_of[STATE] = weights.detach().clone()
        pairs = [(state_of[STATE], weights.detach()) for state_of, weights in states if STATE in state_of]
        self._update([average for average, _ in pairs], [weights for _, weights in pairs], None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model has the averages for weights. It may be entered again within itself."""
        if self._in_place:
            yield
            return
        self.exchange()
        self._in_place = True
        try:
            yield
        finally:
            self.exchange()
            self._in_place = False

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchanges weights and averages, where there are averages."""
        for weights in self._trained():
            state_of = self._optimizer.state.get(weights, {})
            if STATE in state_of:
                kept = weights.detach().clone()
                weights.copy_(state_of[STATE])
                state_of[STATE].copy_(kept)

    def _trained(self) -> list[torch.nn.Parameter]:
        return [weights for group in self._optimizer.param_groups for weights in group["params"]]
