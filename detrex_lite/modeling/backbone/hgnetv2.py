"""HGNetV2 of PaddleClas, the backbone of D-FINE (Peng et al., ICLR 2025): dense blocks of separable convolutions."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import did_you_mean
from ...layers import ConvNormAct
from .folded_norm import fold_norms
from .freezing import FreezableBackbone
from .pretrained import load_pretrained
from .resnet import NORMS, check_norm_and_freezing


class Stage(NamedTuple):
    """The sizes of a stage.

    Attributes:
        mid_channels: channels of each layer of a block.
        channels: channels of the output.
        num_blocks: number of blocks.
    """

    mid_channels: int
    channels: int
    num_blocks: int


class Variant(NamedTuple):
    """The sizes of a network.

    Attributes:
        stem: hidden and output channels of the stem.
        num_layers: number of layers in each block.
        stages: the stages of strides 4, 8, 16 and 32.
    """

    stem: tuple[int, int]
    num_layers: int
    stages: tuple[Stage, Stage, Stage, Stage]


VARIANTS = {
    "B0": Variant((16, 16), 3, (Stage(16, 64, 1), Stage(32, 256, 1), Stage(64, 512, 2), Stage(128, 1024, 1))),
    "B1": Variant((24, 32), 3, (Stage(32, 64, 1), Stage(48, 256, 1), Stage(96, 512, 2), Stage(192, 1024, 1))),
    "B2": Variant((24, 32), 4, (Stage(32, 96, 1), Stage(64, 384, 1), Stage(128, 768, 3), Stage(256, 1536, 1))),
    "B3": Variant((24, 32), 5, (Stage(32, 128, 1), Stage(64, 512, 1), Stage(128, 1024, 3), Stage(256, 2048, 1))),
    "B4": Variant((32, 48), 6, (Stage(48, 128, 1), Stage(96, 512, 1), Stage(192, 1024, 3), Stage(384, 2048, 1))),
    "B5": Variant((32, 64), 6, (Stage(64, 128, 1), Stage(128, 512, 2), Stage(256, 1024, 5), Stage(512, 2048, 2))),
    "B6": Variant((48, 96), 6, (Stage(96, 192, 2), Stage(192, 512, 3), Stage(384, 1024, 6), Stage(768, 2048, 3))),
}
Make = Callable[..., ConvNormAct]
SEPARABLE_STAGES = (2, 3)  # with 1x1 and depthwise 5x5 convolutions; earlier stages have 3x3 convolutions


class AffineReLU(nn.Module):
    """`scale * ReLU(x) + bias` with scalar parameters; helps small networks learn from large ones (PP-HGNetV2)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.relu() + self.bias


class SeparableConv(nn.Module):
    """A 1x1 convolution without activation, followed by a depthwise convolution with activation.

    Args:
        make: creates convolutions with norm and activation.
        in_channels, out_channels: of the first convolution.
        kernel_size: of the depthwise convolution.
    """

    def __init__(self, make: Make, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv1 = make(in_channels, out_channels, activation=None)
        self.conv2 = make(out_channels, out_channels, kernel_size, groups=out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Stem(nn.Module):
    """Map images (B, 3, H, W) to stride 4: strided convolutions around two 2x2 convolutions parallel to a max pooling.

    Args:
        make: creates convolutions with norm and activation.
        mid_channels, out_channels: hidden channels, and channels of the result.
    """

    def __init__(self, make: Make, mid_channels: int, out_channels: int):
        super().__init__()
        self.stem1 = make(3, mid_channels, 3, stride=2)
        self.stem2a = make(mid_channels, mid_channels // 2, 2)
        self.stem2b = make(mid_channels // 2, mid_channels, 2)
        self.stem3 = make(2 * mid_channels, mid_channels, 3, stride=2)
        self.stem4 = make(mid_channels, out_channels)
        self.pool = nn.MaxPool2d(2, stride=1)

    def forward(self, images: Tensor) -> Tensor:
        x = _pad(self.stem1(images))
        convolved = self.stem2b(_pad(self.stem2a(x)))
        return self.stem4(self.stem3(torch.cat([self.pool(x), convolved], dim=1)))


def _pad(x: Tensor) -> Tensor:
    """Pad zeros at the right and the bottom, so that 2x2 kernels keep the size of the map."""
    return F.pad(x, (0, 1, 0, 1))


class Block(nn.Module):
    """Consecutive layers, whose input and results are all aggregated into the output by 1x1 convolutions.

    Args:
        make: creates convolutions with norm and activation.
        layers: the layers.
        total_channels: channels of the input and the results of all layers together.
        out_channels: of the output.
        residual: whether the input is added to the output.
    """

    def __init__(
        self, make: Make, layers: Sequence[nn.Module], total_channels: int, out_channels: int, *, residual: bool
    ):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.aggregation = nn.Sequential(make(total_channels, out_channels // 2), make(out_channels // 2, out_channels))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        results = [x]
        for layer in self.layers:
            results.append(layer(results[-1]))
        aggregated = self.aggregation(torch.cat(results, dim=1))
        return x + aggregated if self.residual else aggregated


class StageBlocks(nn.Module):
    """A stage, which begins with a convolution that halves the map, except for the stage of stride 4.

    Args:
        make: creates convolutions with norm and activation.
        index: 0 to 3.
        in_channels: of the map.
        stage: the sizes of the stage.
        num_layers: number of layers in each block.
    """

    def __init__(self, make: Make, index: int, in_channels: int, stage: Stage, num_layers: int):
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if index > 0:
            self.downsample = make(in_channels, in_channels, 3, stride=2, groups=in_channels, activation=None)
        mid = stage.mid_channels

        def layer(channels: int) -> nn.Module:
            return SeparableConv(make, channels, mid, 5) if index in SEPARABLE_STAGES else make(channels, mid, 3)

        blocks = []
        for number in range(stage.num_blocks):
            input_channels = in_channels if number == 0 else stage.channels
            layers = [layer(input_channels), *(layer(mid) for _ in range(num_layers - 1))]
            total = input_channels + num_layers * mid
            blocks.append(Block(make, layers, total, stage.channels, residual=number > 0))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class HGNetv2(FreezableBackbone):
    """HGNetV2, which returns the maps of any of its four stages. Stages that no output needs are not built.

    Args:
        name: "B0" to "B6".
        out_indices: the stages to return, 0 (stride 4) to 3 (stride 32).
        use_lab: whether each ReLU is an `AffineReLU`, as in the weights of B0 to B3.
        norm: "BN", "FrozenBN", "SyncBN" or "GN".
        freeze_at: 0 trains everything, 1 freezes the stem, 2 the stem and the first stage, ..., 5 everything.
        weights: a file of ImageNet weights that `load_checkpoint` reads; None for random weights.

    Raises:
        ValueError: for an unknown name, stage or norm, `freeze_at` outside 0..5, or a missing file.
    """

    def __init__(
        self,
        *,
        name: str = "B0",
        out_indices: Sequence[int] = (1, 2, 3),
        use_lab: bool = False,
        norm: str = "BN",
        freeze_at: int = 0,
        weights: str | None = None,
    ):
        super().__init__()
        self.channels = hgnetv2_channels(name=name, out_indices=out_indices)
        check_norm_and_freezing("HGNetv2", norm, freeze_at)
        variant = VARIANTS[name]
        self.out_indices = tuple(sorted(set(out_indices)))
        make = functools.partial(ConvNormAct, norm=NORMS[norm], activation=AffineReLU if use_lab else nn.ReLU)
        self.stem = Stem(make, *variant.stem)
        stages, channels = [], variant.stem[1]
        for index, stage in enumerate(variant.stages[: self.out_indices[-1] + 1]):
            stages.append(StageBlocks(make, index, channels, stage, variant.num_layers))
            channels = stage.channels
        self.stages = nn.ModuleList(stages)
        fold_norms(self)
        # Convolutions use the memory format of their weights; channels last is faster on CPUs and tensor cores.
        self.to(memory_format=torch.channels_last)
        if weights is not None:
            load_pretrained(self, weights, new="^$")
        self.freeze([self.stem, *self.stages][:freeze_at])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W). Returns "stage0" .. "stage3" -> (B, C, H / stride, W / stride), finest first."""
        x = self.stem(images)
        outputs = {}
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outputs[f"stage{index}"] = x
        return outputs


def hgnetv2_channels(*, name: str = "B0", out_indices: Sequence[int] = (1, 2, 3)) -> dict[str, int]:
    """Return the channels of each feature of an `HGNetv2` with these arguments, finest first.

    Configs call it to set the input channels of the neck.

    Raises:
        ValueError: for an unknown name or stage, or no stage.
    """
    if name not in VARIANTS:
        raise ValueError(f"there is no HGNetv2 {name!r}{did_you_mean(name, VARIANTS)}")
    if not out_indices or not set(out_indices) <= {0, 1, 2, 3}:
        raise ValueError(f"out_indices={list(out_indices)}: choices are 0 (stride 4), 1, 2 and 3 (stride 32)")
    return {f"stage{index}": VARIANTS[name].stages[index].channels for index in sorted(set(out_indices))}
