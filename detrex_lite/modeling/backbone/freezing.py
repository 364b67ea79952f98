"""Backbones of which some parts are not trained."""

from collections.abc import Sequence
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound="FreezableBackbone")


class FreezableBackbone(nn.Module):
    """A network whose frozen parts stay in evaluation mode, so that statistics of batch norms do not move there."""

    _frozen: Sequence[nn.Module] = ()

    def freeze(self, parts: Sequence[nn.Module]) -> None:
        """Train these parts no more."""
        for part in parts:
            part.requires_grad_(False)
        self._frozen = list(parts)

    def train(self: Network, mode: bool = True) -> Network:
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self
