"""InternImage (Wang et al., CVPR 2023), a convolutional network with deformable convolutions of version 3 (DCNv3).

Parameter names are those of the authors' repository (https://github.com/OpenGVLab/InternImage; code and weights: MIT
licence), which detrex keeps.

Letters: B batch, h x w cells of a map, C channels, G groups.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from ...ops import multi_scale_deformable_attention_from_offsets
from .pretrained import Mlp, drop_path_rates, initialise, load_pretrained, run_blocks, stage_channels


class InternImage(nn.Module):
    """An InternImage that returns the feature maps of any of its four stages.

    Maps have h = ceil(H / stride) cells. Near the border of an image in a padded batch, convolutions read the padding.

    Args:
        embed_dim: channels of the first stage; each further stage doubles them.
        depths: blocks of each stage.
        groups: of the deformable convolutions of each stage.
        post_norm: normalise the output of branches, as InternImage-S, -B and -L do; otherwise their input, and the map
            of each stage, as InternImage-T does.
        offset_scale: factor of the offsets of deformable convolutions.
        out_indices: the stages to return, 0 (stride 4) to 3 (stride 32); their features are called "stage0" etc.
        drop_path_rate: probability that the last residual branch is dropped in training; it decreases towards the
            first one.
        activation_checkpointing: recompute activations in the backward pass instead of storing them.
        weights: a file of pre-trained weights; None for random weights.

    Attributes:
        channels: maps feature names to channels.

    Raises:
        ValueError: for an unknown stage, a list that does not have one value per stage, channels that are not a
            multiple of the groups, a `drop_path_rate` that is not a probability, or `weights` that are not a file.
        CheckpointError: for weights of a different network.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        post_norm: bool = False,
        offset_scale: float = 1.0,
        out_indices: Sequence[int] = (1, 2, 3),
        drop_path_rate: float = 0.1,
        activation_checkpointing: bool = False,
        weights: str | None = None,
    ):
        super().__init__()
        self.channels = stage_channels(embed_dim=embed_dim, out_indices=out_indices)
        self.out_indices = sorted(set(out_indices))
        self.activation_checkpointing = activation_checkpointing
        if not len(depths) == len(groups) == 4:
            raise ValueError(
                f"InternImage has four stages: depths={list(depths)} and groups={list(groups)} must have four values"
            )
        self.patch_embed = _Stem(embed_dim)
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        last = self.out_indices[-1]
        self.levels = nn.ModuleList(
            _Stage(
                embed_dim << index,
                [next(rates) for _ in range(depths[index])],
                groups=groups[index],
                offset_scale=offset_scale,
                post_norm=post_norm,
                downsample=index < last,
            )
            for index in range(last + 1)
        )
        initialise(self)
        for part in self.modules():
            if isinstance(part, DeformableConvolution):
                part.reset_parameters()
        if weights is not None:
            load_pretrained(self, weights, new=r"(?!)")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W), normalised. Returns feature name -> (B, C, ceil(H / stride), ceil(W / stride))."""
        x = self.patch_embed(images)
        outputs = {}
        for index, stage in enumerate(cast("Sequence[_Stage]", self.levels)):
            x = run_blocks(stage.blocks, x, recompute=self.activation_checkpointing and self.training)
            x = stage.norm(x) if stage.norm is not None else x
            if index in self.out_indices:
                outputs[f"stage{index}"] = x.permute(0, 3, 1, 2)
            x = stage.downsample(x) if stage.downsample is not None else x
        return outputs


class _ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def _norm(channels: int, *, of_maps: bool) -> nn.Sequential:
    """Make a layer norm with its published index in a sequence; maps (B, C, h, w) become (B, h, w, C)."""
    prefix = [_ChannelsLast()] if of_maps else []
    return nn.Sequential(*prefix, nn.LayerNorm(channels, eps=1e-6))


class _Stem(nn.Module):
    """Two strided convolutions: images (B, 3, H, W) to (B, H / 4, W / 4, C), rounded up."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1)
        self.norm1 = _norm(channels // 2, of_maps=True)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = _norm(channels, of_maps=True)

    def forward(self, images: Tensor) -> Tensor:
        x = nn.functional.gelu(self.norm1(self.conv1(images)))
        return self.norm2(self.conv2(x.permute(0, 3, 1, 2)))


class _Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = _norm(2 * channels, of_maps=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)))


class _Stage(nn.Module):
    norm: nn.Module | None
    downsample: nn.Module | None

    def __init__(
        self,
        channels: int,
        drop_rates: Sequence[float],
        *,
        groups: int,
        offset_scale: float,
        post_norm: bool,
        downsample: bool,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(_Block(channels, groups, offset_scale, post_norm, rate) for rate in drop_rates)
        self.norm = None if post_norm else _norm(channels, of_maps=False)
        self.downsample = _Downsample(channels) if downsample else None


class _Block(nn.Module):
    """A deformable convolution and a feed-forward network with pre- or post-normalised, scaled residual branches."""

    def __init__(self, channels: int, groups: int, offset_scale: float, post_norm: bool, drop_rate: float):
        super().__init__()
        self.norm1 = _norm(channels, of_maps=False)
        self.dcn = DeformableConvolution(channels, groups, offset_scale=offset_scale)
        self.norm2 = _norm(channels, of_maps=False)
        self.mlp = Mlp(channels, 4 * channels)
        self.gamma1 = nn.Parameter(torch.ones(channels))
        self.gamma2 = nn.Parameter(torch.ones(channels))
        self.post_norm = post_norm
        self.drop_path = StochasticDepth(drop_rate, "row")

    def forward(self, x: Tensor) -> Tensor:
        for function, norm, gamma in ((self.dcn, self.norm1, self.gamma1), (self.mlp, self.norm2, self.gamma2)):
            x = x + self.drop_path(gamma * (norm(function(x)) if self.post_norm else function(norm(x))))
        return x


class DeformableConvolution(nn.Module):
    """DCNv3 (section 3.1 of the paper), 3x3: the weighted mean of nine samples around each cell, per group of channels.

    It is computed as deformable attention with one level. Groups are heads, and the sampling points are the nine cells
    around a cell, moved by offsets. Offsets and weights are predicted by a depth-wise convolution. The map is
    zero-padded.

    Args:
        channels: of the map.
        groups: number of groups; it must divide `channels`.
        offset_scale: factor of the sampling locations relative to the cell.
    """

    def __init__(self, channels: int, groups: int, *, offset_scale: float = 1.0):
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be divided into {groups} groups")
        self.groups, self.offset_scale = groups, offset_scale
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels), _norm(channels, of_maps=True), nn.GELU()
        )
        self.offset = nn.Linear(channels, groups * 9 * 2)
        self.mask = nn.Linear(channels, groups * 9)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        # Columns of cells in order, x first, as in the published weights.
        grid = [(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)]
        self.register_buffer("places", torch.tensor(grid), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as a mean of the nine cells between two projections."""
        for part in (self.offset, self.mask):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        for part in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, h, w, C). Returns the same shape."""
        batch, height, width, _ = x.shape
        around = self.dw_conv(x.permute(0, 3, 1, 2)).flatten(1, 2)
        offsets = self.offset(around).unflatten(2, (self.groups, 1, 9, 2))
        # Half precision does not resolve the cells of a large map.
        dtype = torch.promote_types(x.dtype, torch.float32)
        rows = (torch.arange(height, device=x.device, dtype=dtype) + 0.5) / height
        columns = (torch.arange(width, device=x.device, dtype=dtype) + 0.5) / width
        centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(1, -1, 1, 2)
        gathered = multi_scale_deformable_attention_from_offsets(
            self.input_proj(x).flatten(1, 2).unflatten(2, (self.groups, -1)),
            [(height, width)],
            centres.expand(batch, -1, -1, -1),
            (offsets + self.places) * self.offset_scale,
            self.mask(around).unflatten(2, (self.groups, 1, 9)),
        )
        return self.output_proj(gathered).view(x.shape)
