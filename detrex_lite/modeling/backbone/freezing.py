"""Backbones with frozen parts."""

from collections.abc import Sequence
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound="FreezableBackbone")


class FreezableBackbone(nn.Module):
    """A network whose frozen parts stay in evaluation mode, so that their batch norm statistics do not change."""

    _frozen: Sequence[nn.Module] = ()

    def freeze(self, parts: Sequence[nn.Module]) -> None:
        """Freeze these parts."""
        for part in parts:
            part.requires_grad_(False)
        self._frozen = list(parts)

    def train(self: Network, mode: bool = True) -> Network:
        """Set the mode of all but the frozen parts, which stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self
