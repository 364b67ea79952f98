"""Maps of equal resolution, from several blocks of a plain transformer, fused to one map per level.

Source: LW-DETR (Chen et al., 2024, section 3.2), which resizes maps as ViTDet's simple feature pyramid and fuses them
by a C2f block of YOLOv8 (Jocher et al., 2023).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ...layers import ConvNormAct
from ..layer_norm import LayerNorm2d

_LAYER_NORM = partial(LayerNorm2d, eps=1e-6)
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "LN": _LAYER_NORM,  # over the channels of each cell, independent of the rest of the batch
}


class MultiScaleProjector(nn.Module):
    """Resizes all maps to a level's resolution, concatenates them, fuses them in a C2f block, and normalises them.

    A map is doubled by a transposed convolution of kernel and stride 2 that halves its channels, and halved by a 3x3
    convolution of stride 2.

    Args:
        in_channels: maps feature names to channels, for maps of equal resolution. Configs compute it from the
            backbone's arguments (`vit_channels`).
        out_channels: C of every level.
        scales: for each level, finest first, the side of its map relative to the input maps: 2, 1 or 0.5.
        num_blocks: number of bottlenecks in each C2f block.
        norm: norm of convolutions: "BN", "SyncBN" or "LN".
        squeeze_above: the channels of maps with more channels than this are halved by a 1x1 convolution before the maps
            are doubled in size; None for no such limit.

    Raises:
        ValueError: without maps, for an invalid scale or order of scales, an unknown norm, channels that cannot be
            halved, or a missing input.
    """

    def __init__(
        self,
        *,
        in_channels: Mapping[str, int],
        out_channels: int,
        scales: Sequence[float] = (1.0,),
        num_blocks: int = 3,
        norm: str = "BN",
        squeeze_above: int | None = 512,
    ):
        super().__init__()
        if not in_channels:
            raise ValueError("MultiScaleProjector needs at least one input feature in in_channels")
        if not scales or not set(scales) <= {2, 1, 0.5} or sorted(set(scales), reverse=True) != list(scales):
            raise ValueError(f"scales={list(scales)} must be some of 2, 1, 0.5, each once, finest first")
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r}: choices are {', '.join(NORMS)}")
        if out_channels % 2:
            raise ValueError(f"out_channels={out_channels} is odd: a C2f block halves them")
        self.in_features = tuple(in_channels)
        self.resamplers = nn.ModuleList()
        self.fusions = nn.ModuleList()
        for scale in scales:
            resamplers = [_resampler(channels, scale, NORMS[norm], squeeze_above) for channels in in_channels.values()]
            self.resamplers.append(nn.ModuleList(module for module, _ in resamplers))
            joined = sum(channels for _, channels in resamplers)
            self.fusions.append(C2f(joined, out_channels, num_blocks=num_blocks, norm=NORMS[norm]))
        self.norms = nn.ModuleList(_LAYER_NORM(out_channels) for _ in scales)

    def forward(self, features: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """features: name -> (B, C, h, w). Returns a map (B, out_channels, h * scale, w * scale) for each scale."""
        missing = [name for name in self.in_features if name not in features]
        if missing:
            raise ValueError(f"MultiScaleProjector expects {missing}, but the backbone returns {list(features)}")
        maps = [features[name] for name in self.in_features]
        levels = []
        for resamplers, fusion, norm in zip(self.resamplers, self.fusions, self.norms, strict=True):
            resized = [resample(x) for resample, x in zip(resamplers.children(), maps, strict=True)]
            levels.append(norm(fusion(torch.cat(resized, dim=1))))
        return levels


class C2f(nn.Module):
    """A cross stage partial block: bottlenecks after half of the channels, whose results are all concatenated.

    Args:
        in_channels, out_channels: C before and after.
        num_blocks: number of bottlenecks of two 3x3 convolutions, without a shortcut.
        norm: creates a normalisation for a number of channels.
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_blocks: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        hidden = out_channels // 2
        block = partial(ConvNormAct, norm=norm, activation=nn.SiLU)
        self.conv1 = block(in_channels, 2 * hidden)
        self.bottlenecks = nn.ModuleList(
            nn.Sequential(block(hidden, hidden, 3), block(hidden, hidden, 3)) for _ in range(num_blocks)
        )
        self.conv2 = block((2 + num_blocks) * hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_channels, h, w). Returns (B, out_channels, h, w)."""
        parts = list(self.conv1(x).chunk(2, dim=1))
        for bottleneck in self.bottlenecks:
            parts.append(bottleneck(parts[-1]))
        return self.conv2(torch.cat(parts, dim=1))


def _resampler(
    channels: int, scale: float, norm: Callable[[int], nn.Module], squeeze_above: int | None
) -> tuple[nn.Module, int]:
    """Create the module that resizes a map to a level's resolution; also returns its number of output channels."""
    if scale == 1:
        return nn.Sequential(), channels
    if scale < 1:
        return nn.Sequential(ConvNormAct(channels, channels, 3, stride=2, norm=norm, activation=nn.ReLU)), channels
    layers: list[nn.Module] = []
    if squeeze_above is not None and channels > squeeze_above:
        layers.append(ConvNormAct(channels, channels // 2, norm=norm, activation=nn.ReLU))
        channels //= 2
    if channels % 2:
        raise ValueError(f"a map with {channels} channels cannot be doubled in size, which halves the channels")
    layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
    return nn.Sequential(*layers), channels // 2
