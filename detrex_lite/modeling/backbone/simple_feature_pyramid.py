"""The simple feature pyramid of ViTDet (Li et al., ECCV 2022, section 3): levels out of a transformer's last map."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..layer_norm import LayerNorm2d
from .pretrained import load_pretrained


class SimpleFeaturePyramid(nn.Module):
    """A plain vision transformer and a pyramid of feature maps that are all made of its last one.

    A map is doubled by a transposed convolution of kernel and stride 2 that halves its channels (two of them with a
    layer norm and GELU between, to quadruple it) and halved by max pooling. A 1x1 and a 3x3 convolution, each
    followed by a layer norm, then bring all levels to one width (appendix A.1). Nothing flows between the levels.

    As published, the pixels beyond the last whole patch are ignored, and the last row or column of an odd map when it
    is halved. With `square_size`, images are padded with zeros to a square instead, at the right and the bottom, and
    maps are cut to h = ceil(H / stride). Parameter names are detectron2's: `net.*`, and `simfp_S.*` for the level of
    stride 2^S. What differs from it: an image of less than a patch is padded to one, and a map of one row or column is
    halved to one.

    Args:
        net: the transformer, such as `ViTDet`: from images (B, 3, H, W) to one map (B, C, h, w), h = floor(H / stride),
            with C and the stride as its attributes `channels` and `stride`.
        out_channels: channels of every level.
        scales: for each level, finest first, the side of its map relative to the transformer's: 2 is half the stride.
            The paper's are 4, 2, 1, 0.5, which make strides of 4, 8, 16, 32 from 16.
        subsampled_levels: further levels, each of which is every second cell of the level before.
        square_size: side of the square that images are padded to, that of their longer side where it is larger; 0: no
            square. Attention sees this padding, so it should be what the weights were trained with.
        weights: a file of the transformer's pre-trained weights; None for random weights.

    Attributes:
        channels: feature name -> channels. The level of stride 8 is called "p3", that of stride 16 "p4", and so on.

    Raises:
        ValueError: when a scale is no power of two between 0.5 and 4, scales do not decrease one after the other, the
            channels cannot be halved so often, or `weights` is no file.
        CheckpointError: for weights of another network.
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
        """images: (B, 3, H, W), normalised. Returns feature name -> (B, C, h, w), see above for its size."""
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
                one[..., : -(-height // stride), : -(-width // stride)]
                for one, stride in zip(maps, strides, strict=True)
            ]
        return dict(zip(self.channels, maps, strict=True))


def pyramid_channels(
    *, out_channels: int, scales: Sequence[float], subsampled_levels: int, stride: int = 16
) -> dict[str, int]:
    """Feature name -> channels of what a `SimpleFeaturePyramid` with these arguments returns, finest first.

    Configs call it for what follows the backbone.

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
    """The maximum of each 2 x 2 cells of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 2, ceil_mode=1 in x.shape[-2:])


class _NormedConv2d(nn.Conv2d):
    """A convolution and a layer norm, without a bias since the norm has its own."""

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
