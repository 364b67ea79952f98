"""The simple feature pyramid of ViTDet (Li et al., ECCV 2022, section 3): levels out of a single feature map."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..layer_norm import LayerNorm2d


class SimpleFeaturePyramid(nn.Module):
    """Feature maps of several strides out of one, the last of a plain vision transformer.

    A map is doubled by a transposed convolution of kernel and stride 2 that halves its channels (two of them with a
    layer norm and GELU between, to quadruple it) and shrunk by max pooling. A 1x1 and a 3x3 convolution, each
    followed by a layer norm, then bring all levels to one width (appendix A.1). Nothing flows between the levels.

    What differs from ViTDet: it stands for any map of any stride, also behind transformers without ViTDet's window
    attention and relative positions; borders are pooled instead of dropped, so that a map of one cell has a level
    below it; and any powers of two are scales.

    Args:
        in_channels: feature name -> channels, of the one feature that it takes.
        out_channels: channels of every level.
        scales: for each level, finest first, the side of its map relative to the input's: 2 is half the stride. The
            paper's are 4, 2, 1, 0.5, which make strides of 4, 8, 16, 32 from 16.

    Raises:
        ValueError: when `in_channels` does not have exactly one feature, a scale is no power of two, scales do not
            decrease, the channels cannot be halved so often, or the input is missing.
    """

    def __init__(
        self, *, in_channels: Mapping[str, int], out_channels: int, scales: Sequence[float] = (4.0, 2.0, 1.0, 0.5)
    ):
        super().__init__()
        if len(in_channels) != 1:
            raise ValueError(f"SimpleFeaturePyramid takes one feature, got {list(in_channels)} in in_channels")
        ((self.in_feature, channels),) = in_channels.items()
        _check_scales(scales, channels)
        self.levels = nn.ModuleList(_level(channels, out_channels, scale) for scale in scales)

    def forward(self, features: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """features: name -> (B, C, h, w). Returns maps (B, out_channels, h * scale, w * scale), finest first."""
        if self.in_feature not in features:
            raise ValueError(f"SimpleFeaturePyramid expects {self.in_feature!r}, the backbone returns {list(features)}")
        return [level(features[self.in_feature]) for level in self.levels]


def _check_scales(scales: Sequence[float], channels: int) -> None:
    if not scales or any(scale <= 0 or not math.log2(scale).is_integer() for scale in scales):
        raise ValueError(f"scales={list(scales)} must be powers of two, such as 4, 2, 1, 0.5")
    if sorted(set(scales), reverse=True) != list(scales):
        raise ValueError(f"scales={list(scales)} must decrease: levels come finest first")
    if channels % max(1, scales[0]):
        raise ValueError(f"scales={list(scales)}: {channels} channels cannot be divided by {scales[0]:g}")


def _level(channels: int, out_channels: int, scale: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for doubling in range(int(math.log2(max(scale, 1)))):
        if doubling:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
        channels //= 2
    if scale < 1:
        layers.append(nn.MaxPool2d(kernel_size=int(1 / scale), ceil_mode=True))
    for inputs, size in ((channels, 1), (out_channels, 3)):
        # Without biases: the norms have theirs.
        layers.append(nn.Conv2d(inputs, out_channels, size, padding=size // 2, bias=False))
        layers.append(LayerNorm2d(out_channels))
    return nn.Sequential(*layers)
