"""An exponential moving average of a model's weights."""

import copy
import math
from typing import Any

import torch
from torch import nn

from ..processes.sharding import load_whole, part_here


class ModelEma:
    """A copy of a model whose weights follow it as an exponential moving average.

    The copy is in evaluation mode and is not trained. Integer buffers are copied as they are.

    Args:
        model: the model to follow, not wrapped, on its device.
        decay: the fraction of the average that one update keeps, in [0, 1).
        warmup: the number of updates over which the decay grows, as `decay * (1 - exp(-updates / warmup))`,
            so that the random initial weights are soon forgotten; 0 disables the warm-up.

    Attributes:
        module: the averaged model.
        updates: the number of updates so far.

    Raises:
        ValueError: when `decay` is not in [0, 1) or `warmup` is negative.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: float = 0):
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} of the model average must be in [0, 1)")
        if warmup < 0:
            raise ValueError(f"warmup={warmup} of the model average must not be negative")
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Average the current tensors of `model`. Call this again after `model` and `module` have been sharded."""
        # Both models modify their tensors in place, so the pairs stay valid.
        averaged = [*self.module.parameters(), *self.module.buffers()]
        pairs = list(zip(averaged, [*model.parameters(), *model.buffers()], strict=True))
        self._averaged = [(part_here(a.detach()), part_here(b.detach())) for a, b in pairs if a.is_floating_point()]
        self._copied = [(a, b) for a, b in pairs if not a.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights of the model."""
        self.updates += 1
        decay = self.decay
        if self.warmup > 0:
            decay *= 1 - math.exp(-self.updates / self.warmup)
        averages, values = (list(tensors) for tensors in zip(*self._averaged, strict=True))
        torch._foreach_lerp_(averages, values, 1 - decay)
        for copied, value in self._copied:
            copied.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, under the model's names."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any], updates: int) -> None:
        """Restore saved averaged weights and the number of updates."""
        load_whole(self.module, state)
        self.updates = updates
