"""Stages of Swin Transformers (Liu et al., ICCV 2021) for maps of any size, as in the authors' detectors.

A map is first padded to whole windows at the right and the bottom, and then shifted. timm, whose layers and weights
these stages reuse, shifts first, so that different cells share windows wherever there is padding.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class SwinStage(nn.Module):
    """The modules of a stage of timm's Swin, under the same names.

    Args:
        stage: timm's `SwinTransformerStage`. Its modules become children of this module.

    Attributes:
        grad_checkpointing: recompute activations in the backward pass, named as in timm.
    """

    def __init__(self, stage: Any):
        super().__init__()
        self.downsample = stage.downsample
        self.blocks = nn.ModuleList(SwinBlock(block) for block in stage.blocks)
        self.grad_checkpointing = False

    def forward(self, maps: Tensor) -> Tensor:
        """maps: (B, h, w, C). Returns (B, h', w', C'), halved and rounded up if there is a `downsample`."""
        maps = self.downsample(maps)
        blocks = cast("list[SwinBlock]", list(self.blocks))
        mask = next((block.mask(maps) for block in blocks if any(block.shift)), None)
        for block in blocks:
            maps = checkpoint(block, maps, mask, use_reentrant=False) if self.grad_checkpointing else block(maps, mask)
        return maps


class SwinBlock(nn.Module):
    """Attention in windows, which are shifted in every second block of a stage, and an MLP.

    Args:
        block: timm's `SwinTransformerBlock`. Its modules become children of this module.

    Attributes:
        window: cells of a window, vertically and horizontally.
        shift: cells by which windows are shifted to the bottom and the right; 0 without a shift.
    """

    def __init__(self, block: Any):
        super().__init__()
        self.window: tuple[int, int] = tuple(block.window_size)
        self.shift: tuple[int, int] = tuple(block.shift_size)
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2

    def forward(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        """maps: (B, h, w, C); mask: the result of `mask` for them, which blocks without a shift ignore."""
        maps = maps + self.drop_path1(self._attend(self.norm1(maps), mask))
        return maps + self.drop_path2(self.mlp(self.norm2(maps)))

    def mask(self, maps: Tensor) -> Tensor:
        """Compute the attention bias between the N cells of each window of shifted maps (B, h, w, C): (windows, N, N).

        Windows at the borders contain cells from opposite sides of the map, which must not attend to each other.
        """
        rows, columns = (
            _parts(side + -side % window, window, shift, maps.device)
            for side, window, shift in zip(maps.shape[1:3], self.window, self.shift, strict=True)
        )
        parts = self._windows((3 * rows[:, None] + columns)[None, :, :, None])
        return (parts != parts.transpose(1, 2)).to(maps.dtype) * -100.0

    def _attend(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        height, width = maps.shape[1:3]
        bottom, right = -height % self.window[0], -width % self.window[1]
        if bottom or right:
            maps = nn.functional.pad(maps, (0, 0, 0, right, 0, bottom))
        if any(self.shift):
            down, across = self.shift
            shifted = maps.roll((-down, -across), (1, 2))
            maps = self._merge_windows(self.attn(self._windows(shifted), mask=mask), maps).roll(self.shift, (1, 2))
        else:
            maps = self._merge_windows(self.attn(self._windows(maps)), maps)
        return maps[:, :height, :width]

    def _windows(self, maps: Tensor) -> Tensor:
        """Partition maps (B, h, w, C) of whole windows into (B * windows, N, C)."""
        batch, height, width, channels = maps.shape
        high, wide = self.window
        parts = maps.view(batch, height // high, high, width // wide, wide, channels)
        return parts.transpose(2, 3).reshape(-1, high * wide, channels)

    def _merge_windows(self, windows: Tensor, maps: Tensor) -> Tensor:
        """Merge windows (B * windows, N, C) into maps of the shape of `maps`."""
        batch, height, width, channels = maps.shape
        high, wide = self.window
        parts = windows.view(batch, height // high, width // wide, high, wide, channels)
        return parts.transpose(2, 3).reshape(maps.shape)


def _parts(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Label the rows or columns of a shifted map: 0, 1 in the last window, and 2 for those from the opposite side."""
    positions = torch.arange(length, device=device)
    return (positions >= length - window).long() + (positions >= length - shift).long()
