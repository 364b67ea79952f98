"""RT-DETR's efficient hybrid encoder (Zhao et al., CVPR 2024, section 4.2), as a neck.

Legend: B batch, C channels, L levels, h x w cells of a feature map.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import ConvNormAct, copies, get_grid_sine_pos_embed
from ..multi_scale import flatten_maps


class HybridEncoder(nn.Module):
    """Self-attention within the coarsest level, and convolutions that fuse features across levels.

    As in figure 4 of the paper, maps are projected to equal width. In AIFI (attention-based intra-scale feature
    interaction), the cells of some levels attend to each other. CCFF (CNN-based cross-scale feature fusion) fuses maps
    from the coarsest level to the finest, and then back. Each step resizes a map to the size of the next level's map,
    concatenates the two, and fuses them by a block. Before a map is upsampled, its lateral block is applied; the
    bottom-up path reads that result.

    Given parts are copied for every use; each copy draws new initial values.

    Differences from the authors' code: positions encode row and column also for rectangular maps (there, the axes are
    swapped for maps that are not square), and sizes need not be multiples of 32.

    Args:
        in_channels: maps feature names to channels, in the order of the levels, finest first. Configs compute it from
            the backbone's arguments (`presnet_channels`, `resnet_channels`, `timm_channels`).
        hidden_dim: C inside.
        encoder: AIFI: maps (tokens (B, N, C), pos=(1, N, C)) to (B, N, C), such as `SingleLevelEncoder`; None for none.
        encoder_levels: the levels of AIFI, counted from 0, the finest; negative levels count from the coarsest.
        lateral: maps (B, C, h, w) to the same shape, before a map is upsampled.
        fusion: maps (B, 2 * C, h, w), two concatenated maps, to (B, C, h, w).
        downsample: maps (B, C, h, w) to (B, C, h / 2, w / 2), rounded up.
        output: maps (B, C, h, w) of each level to the transformer's input; None for the identity.
        temperature: of the positions of cells, see `get_grid_sine_pos_embed`.

    Raises:
        ValueError: when `in_channels` is empty, a level does not exist, or an input is missing.
    """

    def __init__(
        self,
        *,
        in_channels: Mapping[str, int],
        hidden_dim: int,
        encoder: nn.Module | None,
        encoder_levels: Sequence[int] = (-1,),
        lateral: nn.Module,
        fusion: nn.Module,
        downsample: nn.Module,
        output: nn.Module | None = None,
        temperature: float = 10000.0,
    ):
        super().__init__()
        num_levels = len(in_channels)
        if not in_channels:
            raise ValueError("HybridEncoder needs at least one input feature in in_channels")
        if not all(-num_levels <= level < num_levels for level in encoder_levels):
            raise ValueError(
                f"encoder_levels={list(encoder_levels)}: there are {num_levels} levels, 0 (finest) to {num_levels - 1}"
            )
        self.in_features = tuple(in_channels)
        self.encoder_levels = tuple(level % num_levels for level in encoder_levels) if encoder is not None else ()
        self.temperature = temperature
        self.projections = nn.ModuleList(ConvNormAct(channels, hidden_dim) for channels in in_channels.values())
        self.encoders = nn.ModuleList(_copies_or_identities(encoder, len(self.encoder_levels)))
        self.laterals = nn.ModuleList(_copies_or_identities(lateral, num_levels - 1))
        self.top_down = nn.ModuleList(_copies_or_identities(fusion, num_levels - 1))
        self.downsamples = nn.ModuleList(_copies_or_identities(downsample, num_levels - 1))
        self.bottom_up = nn.ModuleList(copies([fusion] * num_levels)[1:])
        self.outputs = nn.ModuleList(_copies_or_identities(output, num_levels))
        # Convolutions use the memory format of their weights; channels last is faster on CPUs and tensor cores.
        self.to(memory_format=torch.channels_last)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """features: name -> (B, C, h, w). Returns L maps, finest first."""
        missing = [name for name in self.in_features if name not in features]
        if missing:
            raise ValueError(f"HybridEncoder expects {missing}, but the backbone returns {list(features)}")
        maps = [project(features[name]) for name, project in zip(self.in_features, self.projections, strict=True)]
        for level, encoder in zip(self.encoder_levels, self.encoders, strict=True):
            maps[level] = self._attend(encoder, maps[level])
        maps = self._bottom_up(self._top_down(maps))
        return [output(level) for output, level in zip(self.outputs, maps, strict=True)] if self.outputs else maps

    def _attend(self, encoder: nn.Module, level: Tensor) -> Tensor:
        """Apply self-attention within a map (B, C, h, w)."""
        height, width = level.shape[-2:]
        tokens = flatten_maps([level])
        pos = get_grid_sine_pos_embed(height, width, tokens.shape[-1], temperature=self.temperature, like=tokens)
        return encoder(tokens, pos=pos[None]).transpose(1, 2).unflatten(2, (height, width))

    def _top_down(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Fuse from the coarsest level to the finest, which is also the order of the blocks."""
        results = [maps[-1]]  # coarsest first
        for finer, lateral, fusion in zip(reversed(maps[:-1]), self.laterals, self.top_down, strict=True):
            results[-1] = lateral(results[-1])
            enlarged = F.interpolate(results[-1], size=finer.shape[-2:], mode="nearest")
            results.append(fusion(torch.cat([enlarged, finer], dim=1)))
        return results[::-1]

    def _bottom_up(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Fuse from the finest level to the coarsest."""
        results = [maps[0]]
        for coarser, downsample, fusion in zip(maps[1:], self.downsamples, self.bottom_up, strict=True):
            height, width = coarser.shape[-2:]
            # The map of a backbone that rounds down has one row or column less than the block's result.
            reduced = downsample(results[-1])[..., :height, :width]
            results.append(fusion(torch.cat([reduced, coarser], dim=1)))
        return results


def _copies_or_identities(module: nn.Module | None, number: int) -> list[nn.Module]:
    return [] if module is None else copies([module] * number)
