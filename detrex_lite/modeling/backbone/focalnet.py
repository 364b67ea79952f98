"""FocalNet (Yang et al., NeurIPS 2022) in the configuration of its large models, which detectors use.

Focal modulation replaces attention: depth-wise convolutions of growing kernel sizes gather context, gates weight the
levels in each cell, and the sum multiplies a query. The large models have overlapping patch embeddings, normalise the
output of each branch, and scale it.

Parameter names are those of the authors' repository (https://github.com/microsoft/FocalNet; code and weights: MIT
licence), which detrex and Relation-DETR keep.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from ..layer_norm import LayerNorm2d
from .pretrained import Mlp, drop_path_rates, initialise, load_pretrained, pad_to_multiple, run_blocks, stage_channels


class FocalNet(nn.Module):
    """A FocalNet that returns the normalised feature maps of any of its four stages.

    Images are padded with zeros to a multiple of 4, and maps have h = ceil(H / stride) cells. The coarsest context is
    a mean over the whole map, so each cell depends on all of the image and, in a padded batch, on its padding.

    Args:
        embed_dim: channels of the first stage; each further stage doubles them.
        depths: blocks of each stage.
        focal_levels: focal levels of each stage.
        focal_windows: size of the smallest kernel in each stage; each further level adds 2.
        out_indices: the stages to return, 0 (stride 4) to 3 (stride 32); their features are called "stage0" etc.
        normalize_modulator: divide the sum of the contexts by their number.
        drop_path_rate: probability that the last residual branch is dropped in training; it decreases towards the
            first one.
        activation_checkpointing: recompute activations in the backward pass instead of storing them.
        weights: a file of pre-trained weights; None for random weights.

    Attributes:
        channels: maps feature names to channels.

    Raises:
        ValueError: for an unknown stage, a list that does not have one value per stage, a `drop_path_rate` that is not
            a probability, or `weights` that are not a file.
        CheckpointError: for weights of a different network.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 192,
        depths: Sequence[int] = (2, 2, 18, 2),
        focal_levels: Sequence[int] = (3, 3, 3, 3),
        focal_windows: Sequence[int] = (5, 5, 5, 5),
        out_indices: Sequence[int] = (1, 2, 3),
        normalize_modulator: bool = False,
        drop_path_rate: float = 0.3,
        activation_checkpointing: bool = False,
        weights: str | None = None,
    ):
        super().__init__()
        self.channels = stage_channels(embed_dim=embed_dim, out_indices=out_indices)
        self.out_indices = sorted(set(out_indices))
        self.activation_checkpointing = activation_checkpointing
        if not len(depths) == len(focal_levels) == len(focal_windows) == 4:
            raise ValueError(
                f"FocalNet has four stages: depths={list(depths)}, focal_levels={list(focal_levels)} and "
                f"focal_windows={list(focal_windows)} must have four values each"
            )
        self.patch_embed = _PatchEmbed(3, embed_dim, kernel_size=7, stride=4, padding=2)
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        last = self.out_indices[-1]
        self.layers = nn.ModuleList(
            _Stage(
                embed_dim << index,
                [next(rates) for _ in range(depths[index])],
                level=focal_levels[index],
                window=focal_windows[index],
                normalize_modulator=normalize_modulator,
                downsample=index < last,
            )
            for index in range(last + 1)
        )
        for index in self.out_indices:
            self.add_module(f"norm{index}", LayerNorm2d(embed_dim << index))
        initialise(self)
        if weights is not None:
            load_pretrained(self, weights, new=r"^norm\d\.")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W), normalised. Returns a dict of maps (B, C, ceil(H / stride), ceil(W / stride))."""
        x = self.patch_embed(pad_to_multiple(images, 4))
        outputs = {}
        for index, stage in enumerate(cast("Sequence[_Stage]", self.layers)):
            x = run_blocks(stage.blocks, x, recompute=self.activation_checkpointing and self.training)
            if index in self.out_indices:
                outputs[f"stage{index}"] = getattr(self, f"norm{index}")(x.permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x.permute(0, 3, 1, 2))
        return outputs


class _PatchEmbed(nn.Module):
    """A strided convolution and a layer norm: (B, C, h, w) to (B, h / stride, w / stride, C), rounded up."""

    def __init__(self, in_channels: int, channels: int, *, kernel_size: int, stride: int, padding: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel_size, stride=stride, padding=padding)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class _Stage(nn.Module):
    downsample: nn.Module | None

    def __init__(
        self,
        channels: int,
        drop_rates: Sequence[float],
        *,
        level: int,
        window: int,
        normalize_modulator: bool,
        downsample: bool,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(_Block(channels, rate, level, window, normalize_modulator) for rate in drop_rates)
        embed = _PatchEmbed(channels, 2 * channels, kernel_size=3, stride=2, padding=1) if downsample else None
        self.downsample = embed


class _Block(nn.Module):
    """Focal modulation and a feed-forward network, both with normalised and scaled residual branches."""

    def __init__(self, channels: int, drop_rate: float, level: int, window: int, normalize_modulator: bool):
        super().__init__()
        self.modulation = FocalModulation(channels, level, window, normalize=normalize_modulator)
        self.norm1 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        self.norm2 = nn.LayerNorm(channels)
        self.gamma_1 = nn.Parameter(1e-4 * torch.ones(channels))
        self.gamma_2 = nn.Parameter(1e-4 * torch.ones(channels))
        self.drop_path = StochasticDepth(drop_rate, "row")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma_1 * self.norm1(self.modulation(x)))
        return x + self.drop_path(self.gamma_2 * self.norm2(self.mlp(x)))


class FocalModulation(nn.Module):
    """Multiply the query of each cell by a gated sum of contexts of several sizes (section 3.2 of the paper).

    Args:
        channels: of the map.
        levels: number of consecutive depth-wise convolutions; the mean of the last output is one more context.
        window: kernel size of the first convolution; each further one adds 2.
        normalize: divide the sum of the contexts by their number.
    """

    def __init__(self, channels: int, levels: int, window: int, *, normalize: bool = False):
        super().__init__()
        self.channels, self.levels, self.normalize = channels, levels, normalize
        self.f = nn.Linear(channels, 2 * channels + levels + 1)  # query, context, gates
        self.focal_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels, bias=False), nn.GELU()
            )
            for side in range(window, window + 2 * levels, 2)
        )
        self.h = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, h, w, C). Returns the same shape."""
        parts = self.f(x).permute(0, 3, 1, 2)
        query, context, gates = parts.split([self.channels, self.channels, self.levels + 1], dim=1)
        modulator = query.new_zeros(())
        for level, layer in enumerate(self.focal_layers):
            context = layer(context)
            modulator = modulator + context * gates[:, level : level + 1]
        whole = nn.functional.gelu(context.mean((2, 3), keepdim=True))
        modulator = modulator + whole * gates[:, self.levels :]
        if self.normalize:
            modulator = modulator / (self.levels + 1)
        return self.proj((query * self.h(modulator)).permute(0, 2, 3, 1))
