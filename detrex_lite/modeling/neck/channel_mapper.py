"""Feature maps of a backbone, projected to equal width, with further levels by strided convolutions."""

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class ChannelMapper(nn.Module):
    """A convolution (and normalisation) per feature map, and further levels after the coarsest one.

    Convolutions have Xavier-uniform weights and zero biases, as in Deformable DETR's repository.

    Args:
        in_channels: maps feature names to channels, in the order of the levels, finest first. Configs compute it from
            the backbone's arguments (`resnet_channels`, `timm_channels`).
        out_channels: channels of every level.
        num_outs: number of returned levels. Levels beyond the given features are computed by 3x3 convolutions of stride
            2, the first one from the coarsest backbone feature, the others from the previous level (Zhu et al., ICLR
            2021, appendix A.4). None for the number of features.
        kernel_size: of the projections; odd.
        bias: whether the convolutions have biases.
        norm: the normalisation, which is copied for every level, e.g. `nn.GroupNorm(32, 256)`; None for none.

    Raises:
        ValueError: when `in_channels` is empty, `num_outs` is below the number of features, or an input is missing.
    """

    def __init__(
        self,
        *,
        in_channels: Mapping[str, int],
        out_channels: int,
        num_outs: int | None = None,
        kernel_size: int = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        if not in_channels:
            raise ValueError("ChannelMapper needs at least one input feature in in_channels")
        num_outs = len(in_channels) if num_outs is None else num_outs
        if num_outs < len(in_channels):
            raise ValueError(f"num_outs={num_outs} is below the number of input features, {len(in_channels)}")
        self.in_features = tuple(in_channels)

        def block(channels: int, size: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(channels, out_channels, size, stride=stride, padding=size // 2, bias=bias)
            nn.init.xavier_uniform_(convolution.weight)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            return nn.Sequential(convolution, *([] if norm is None else [copy.deepcopy(norm)]))

        self.convs = nn.ModuleList(block(channels, kernel_size, 1) for channels in in_channels.values())
        coarsest = list(in_channels.values())[-1]
        self.extra_convs = nn.ModuleList(
            block(coarsest if level == 0 else out_channels, 3, 2) for level in range(num_outs - len(in_channels))
        )

    def forward(self, features: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """features: name -> (B, C, h, w). Returns `num_outs` maps (B, out_channels, h, w), finest first."""
        missing = [name for name in self.in_features if name not in features]
        if missing:
            raise ValueError(f"ChannelMapper expects {missing}, but the backbone returns {list(features)}")
        outputs = [conv(features[name]) for name, conv in zip(self.in_features, self.convs, strict=True)]
        below = features[self.in_features[-1]]
        for conv in self.extra_convs:
            below = conv(below)
            outputs.append(below)
        return outputs
