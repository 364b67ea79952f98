"""The simple feature pyramid of ViTDet (Li et al., ECCV 2022, section 3): levels from the last map of a transformer."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..layer_norm import LayerNorm2d
from .pretrained import load_pretrained


class SimpleFeaturePyramid(nn.Module):
    """A plain vision transformer with a pyramid of feature maps computed from its last map.

    A map is doubled by a transposed convolution of kernel and stride 2 that halves its channels (two of them, with a
    layer norm and GELU between, quadruple it) and halved by max pooling. A 1x1 and a 3x3 convolution, each followed by
    a layer norm, then project each level to the same width (appendix A.1). There are no connections between levels.

    As published, pixels beyond the last whole patch are ignored, and so is the last row or column when an odd map is
    halved. With `square_size`, images are instead padded with zeros to a square, at the right and the bottom, and maps
    are cropped to h = ceil(H / stride). Parameter names are detectron2's: `net.*`, and `simfp_S.*` for the level of
    stride 2^S. Differences from detectron2: an image smaller than a patch is padded to one, and a map of one row or
    column keeps it when halved.

    Args:
        net: the transformer, such as `ViTDet`. It maps images (B, 3, H, W) to one map (B, C, h, w),
            h = floor(H / stride), and has C and the stride as its attributes `channels` and `stride`.
        out_channels: channels of every level.
        scales: for each level, finest first, the side of its map relative to the transformer's: 2 is half the stride.
            The paper uses 4, 2, 1, 0.5, which turn a stride of 16 into strides of 4, 8, 16 and 32.
        subsampled_levels: number of further levels, each of which takes every second cell of the previous level.
        square_size: side of the square that images are padded to; a larger image is padded to its longer side. 0 for no
            square. Attention reads this padding, so use the size that the weights were trained with.
        weights: a file of the transformer's pre-trained weights; None for random weights.

    Attributes:
        channels: maps feature names to channels. The level of stride 8 is called "p3", that of stride 16 "p4", etc.

    Raises:
        ValueError: when a scale is not a power of two between 0.5 and 4, the scales do not decrease, the channels
            cannot be halved that often, or `weights` is not a file.
        CheckpointError: for weights of a different network.
    """

    def __init__(
        self,
        *,
        net: nn.Module,
        out_channels: int = 256,
        scales: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
        subsampled_levels: int = 0,
        square_size: int = 0,
        weights: str | None = None,
    ):
        super().__init__()
        channels, self.stride = int(net.channels), int(net.stride)  # type: ignore[arg-type]
        self.channels = pyramid_channels(
            out_channels=out_channels, scales=scales, subsampled_levels=subsampled_levels, stride=self.stride
        )
        if channels % max(1, scales[0]):
            raise ValueError(f"scales={list(scales)}: {channels} channels cannot be divided by {scales[0]:g}")
        self.net = net
        self.square_size = square_size
        self._levels = [f"simfp_{int(math.log2(self.stride / scale))}" for scale in scales]
        for name, scale in zip(self._levels, scales, strict=True):
            self.add_module(name, _level(channels, out_channels, scale))
        if weights is not None:
            load_pretrained(net, weights, new=r"\.rel_pos_[hw]$", below="net.")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W), normalised. Returns feature name -> (B, C, h, w); see above for h and w."""
        height, width = images.shape[-2:]
        side = max(self.square_size, height, width) if self.square_size else 0
        side += -side % self.stride
        down, right = (max(side, self.stride) - size for size in (height, width))
        x = self.net(nn.functional.pad(images, (0, max(right, 0), 0, max(down, 0))))
        maps = [getattr(self, name)(x) for name in self._levels]
        while len(maps) < len(self.channels):
            maps.append(maps[-1][..., ::2, ::2])
        if self.square_size:
            strides = [2 ** int(name[1:]) for name in self.channels]
            maps = [
                level_map[..., : -(-height // stride), : -(-width // stride)]
                for level_map, stride in zip(maps, strides, strict=True)
            ]
        return dict(zip(self.channels, maps, strict=True))


def pyramid_channels(
    *, out_channels: int, scales: Sequence[float], subsampled_levels: int, stride: int = 16
) -> dict[str, int]:
    """Return the channels of each feature of a `SimpleFeaturePyramid` with these arguments, finest first.

    Configs call it to set the input channels of the neck.

    Raises:
        ValueError: as `SimpleFeaturePyramid`.
    """
    if not scales or not set(scales) <= {4, 2, 1, 0.5}:
        raise ValueError(f"scales={list(scales)} must be some of 4, 2, 1, 0.5")
    if any(coarser * 2 != finer for finer, coarser in itertools.pairwise(scales)):
        raise ValueError(f"scales={list(scales)} must be halved from one level to the next")
    finest = int(math.log2(stride / scales[0]))
    return {f"p{finest + level}": out_channels for level in range(len(scales) + subsampled_levels)}


class _Halved(nn.Module):
    """Max pooling of 2 x 2 cells of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 2, ceil_mode=1 in x.shape[-2:])


class _NormedConv2d(nn.Conv2d):
    """A convolution without bias, followed by a layer norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = LayerNorm2d(out_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


def _level(channels: int, out_channels: int, scale: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for doubling in range(int(math.log2(max(scale, 1)))):
        if doubling:
            layers += [LayerNorm2d(channels, eps=1e-6), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
        channels //= 2
    if scale < 1:
        layers.append(_Halved())
    layers += [_NormedConv2d(channels, out_channels, 1), _NormedConv2d(out_channels, out_channels, 3)]
    return nn.Sequential(*layers)
