"""ResNet-vd backbones (Bag of Tricks, He et al., CVPR 2019, ResNet-D), as in PaddlePaddle and RT-DETR.

They differ from a ResNet by a stem of three 3x3 convolutions, and by shortcuts that average before they project.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...layers import ConvNormAct
from .folded_norm import fold_norms
from .freezing import FreezableBackbone
from .pretrained import load_pretrained
from .resnet import NORMS, STAGES, check_norm_and_freezing, resnet_channels

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class PResNet(FreezableBackbone):
    """A ResNet-vd that returns the feature maps of any of its four stages.

    Args:
        depth: 18, 34, 50 or 101.
        out_features: the stages to return, out of "res2" (stride 4) to "res5" (stride 32).
        norm: "FrozenBN", "BN", "SyncBN" or "GN", see `ResNet`.
        freeze_at: 0 trains everything, 1 freezes the stem, 2 the stem and res2, ..., 5 everything. RT-DETR's own
            setting counts from -1 for nothing, so that its 0 is 1 here.
        weights: a file of ImageNet weights that `load_checkpoint` reads; None for random weights.

    Raises:
        ValueError: for an unknown depth, stage or norm, or `freeze_at` outside 0..5.
        CheckpointError: when the weights are of a different network.
    """

    def __init__(
        self,
        *,
        depth: int = 50,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        norm: str = "FrozenBN",
        freeze_at: int = 1,
        weights: str | None = None,
    ):
        super().__init__()
        self.channels = presnet_channels(depth=depth, out_features=out_features)
        check_norm_and_freezing("PResNet", norm, freeze_at)
        make_norm, is_deep = NORMS[norm], depth >= 50
        self.out_features = tuple(out_features)
        self.stem = nn.Sequential(
            *(
                ConvNormAct(in_channels, out_channels, 3, stride, norm=make_norm, activation=nn.ReLU)
                for in_channels, out_channels, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1))
            )
        )
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages, channels = [], 64
        for stage in range(max(STAGES.index(name) for name in out_features) + 1):
            blocks: list[nn.Module] = []
            for index in range(BLOCKS[depth][stage]):
                stride = 2 if index == 0 and stage > 0 else 1
                out_channels = (256 if is_deep else 64) << stage
                shape = (channels, out_channels, stride)
                blocks.append(_Block(*shape, is_bottleneck=is_deep, has_projection=index == 0, norm=make_norm))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        fold_norms(self)
        # Convolutions use the memory format of their weights; channels last is faster on CPUs and tensor cores.
        self.to(memory_format=torch.channels_last)
        if weights is not None:
            load_pretrained(self, weights, new=r"(?!)")
        self.freeze([self.stem, *self.stages][:freeze_at])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W), normalised. Returns stage name -> (B, C, H / stride, W / stride), rounded up."""
        x = self.maxpool(self.stem(images))
        outputs = {}
        for name, stage in zip(STAGES, self.stages, strict=False):
            x = stage(x)
            if name in self.out_features:
                outputs[name] = x
        return outputs


def presnet_channels(*, depth: int = 50, out_features: Sequence[str] = ("res3", "res4", "res5")) -> dict[str, int]:
    """Return the channels of each stage of a `PResNet` with these arguments, finest first.

    Configs call it to set the input channels of the neck.

    Raises:
        ValueError: for an unknown depth or stage.
    """
    if depth not in BLOCKS:
        raise ValueError(f"PResNet depth={depth}; choices: {', '.join(map(str, BLOCKS))}")
    return resnet_channels(depth=depth, out_features=out_features)


class _Block(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck of a 1x1, a (strided) 3x3 and a 1x1 convolution.

    Args:
        in_channels, out_channels: C before and after.
        stride: 1 or 2; a strided shortcut averages 2x2 cells instead of dropping three of four.
        is_bottleneck: whether the block is a bottleneck, with a quarter of the channels inside.
        has_projection: whether the shortcut has a convolution.
        norm: creates normalisations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        is_bottleneck: bool,
        has_projection: bool,
        norm: Callable[[int], nn.Module],
    ):
        super().__init__()
        if is_bottleneck:
            width = out_channels // 4
            sizes = [(in_channels, width, 1, 1), (width, width, 3, stride), (width, out_channels, 1, 1)]
        else:
            sizes = [(in_channels, out_channels, 3, stride), (out_channels, out_channels, 3, 1)]
        self.convs = nn.Sequential(
            *(
                ConvNormAct(*size, norm=norm, activation=None if index == len(sizes) - 1 else nn.ReLU)
                for index, size in enumerate(sizes)
            )
        )
        self.pool = nn.AvgPool2d(2, stride=2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.shortcut = ConvNormAct(in_channels, out_channels, norm=norm) if has_projection else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w). Returns (B, out_channels, h / stride, w / stride), rounded up."""
        return self.act(self.convs(x) + self.shortcut(self.pool(x)))
