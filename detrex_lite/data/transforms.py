"""The augmentations of DETR (Carion et al., ECCV 2020) as torchvision v2 transforms.

All transforms are called as `image, target = transform(image, target)` with a `tv_tensors.Image` and a dictionary of
`boxes` (`tv_tensors.BoundingBoxes`), `labels` and possibly `masks` (`ObjectMasks`), like every transform of torchvision
v2, and can be combined with those. Random choices come from torch's generator.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2

from ..photographs import shortest_edge_size
from .photometric import RandomPhotometricDistort

# The paper's numbers: short edges in pixels, and the range of the sides of a crop.
SHORT_EDGES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
MAX_SIZE = 1333
SHORT_EDGES_BEFORE_CROP = (400, 500, 600)
CROP_RANGE = (384, 600)


def _choose(choices: Sequence[int]) -> int:
    return choices[int(torch.randint(len(choices), ()))]


class ResizeShortestEdge(nn.Module):
    """Resizes so that the short edge gets a length drawn from a list; see `shortest_edge_size`.

    Args:
        short_edge_length: one length in pixels, or several to choose from with equal probability.
        max_size: limit of the long edge in pixels; None for no limit.

    Raises:
        ValueError: when a length is below 1, there is none, or the limit is below a length.
    """

    def __init__(self, short_edge_length: int | Sequence[int], max_size: int | None = None):
        super().__init__()
        lengths = [short_edge_length] if isinstance(short_edge_length, int) else list(short_edge_length)
        if not lengths or min(lengths) < 1:
            raise ValueError(f"short_edge_length must be one or more lengths of at least 1 pixel, got {lengths}")
        if max_size is not None and max_size < max(lengths):
            raise ValueError(f"max_size {max_size} is below the short edge length {max(lengths)}")
        self.short_edge_length = tuple(lengths)
        self.max_size = max_size

    def forward(self, image: Any, *others: Any) -> Any:
        height, width = v2.functional.get_size(image)
        size = shortest_edge_size(height, width, _choose(self.short_edge_length), self.max_size)
        return v2.Resize(size, antialias=True)(image, *others)

    def extra_repr(self) -> str:
        return f"short_edge_length={self.short_edge_length}, max_size={self.max_size}"


class RandomSizeCrop(nn.Module):
    """Crops a region of random size at a random position; boxes are clipped to it.

    Args:
        min_size, max_size: range in pixels of both sides, which are drawn independently. Shorter sides of the image
            limit the range.

    Raises:
        ValueError: unless 1 <= min_size <= max_size.
    """

    def __init__(self, min_size: int, max_size: int):
        super().__init__()
        if not 1 <= min_size <= max_size:
            raise ValueError(f"a crop needs 1 <= min_size <= max_size, got {min_size} and {max_size}")
        self.min_size = min_size
        self.max_size = max_size

    def forward(self, image: Any, *others: Any) -> Any:
        sides = [self._draw(side) for side in v2.functional.get_size(image)]
        return v2.RandomCrop(sides)(image, *others)

    def _draw(self, side: int) -> int:
        low, high = min(self.min_size, side), min(self.max_size, side)
        return int(torch.randint(low, high + 1, ()))

    def extra_repr(self) -> str:
        return f"min_size={self.min_size}, max_size={self.max_size}"


def detr_train_augmentation(
    *,
    short_edge_lengths: Sequence[int] = SHORT_EDGES,
    max_size: int | None = MAX_SIZE,
    flip_probability: float = 0.5,
    crop_probability: float = 0.5,
    short_edges_before_crop: Sequence[int] = SHORT_EDGES_BEFORE_CROP,
    crop_range: Sequence[int] = CROP_RANGE,
    distort_probability: float = 0.0,
) -> v2.Transform:
    """Flip, then resize; or, with `crop_probability`, flip, resize, crop and resize again.

    Args:
        short_edge_lengths: short edges of the final image, in pixels.
        max_size: limit of its long edge.
        flip_probability: of the horizontal flip.
        crop_probability: probability of the variant with a crop.
        short_edges_before_crop: short edges that the crop is taken from.
        crop_range: shortest and longest side of the crop.
        distort_probability: probability of each of the five operations of `RandomPhotometricDistort` on the resized
            image. DETR does not change colours, but small models that are trained from scratch need more variety.
    """
    resize = ResizeShortestEdge(short_edge_lengths, max_size)
    crop = [ResizeShortestEdge(short_edges_before_crop), RandomSizeCrop(*crop_range), resize]
    either = v2.RandomChoice([v2.Compose(crop), resize], p=[crop_probability, 1 - crop_probability])
    distort = [RandomPhotometricDistort(p=distort_probability)] if distort_probability > 0 else []
    return v2.Compose([v2.RandomHorizontalFlip(flip_probability), either, *distort])


class PadToSize(nn.Module):
    """Pads at the right and the bottom; images that are large enough are not changed.

    Args:
        height, width: smallest size in pixels.
        fill: the value of the pixels; masks are filled with 0.

    Raises:
        ValueError: when a number is out of range.
    """

    def __init__(self, height: int, width: int, fill: int = 0):
        super().__init__()
        if min(height, width) < 1 or not 0 <= fill <= 255:
            raise ValueError(f"padding needs a size from 1 and a fill of 0 to 255, got {height=}, {width=}, {fill=}")
        self.size = (height, width)
        self.fill = fill

    def forward(self, image: Any, *others: Any) -> Any:
        bottom, right = (
            max(0, target - side) for target, side in zip(self.size, v2.functional.get_size(image), strict=True)
        )
        return v2.Pad([0, 0, right, bottom], fill=self.fill)(image, *others)

    def extra_repr(self) -> str:
        return f"size={self.size}, fill={self.fill}"


def lsj_train_augmentation(
    *,
    image_size: int,
    scale_range: Sequence[float] = (0.1, 2.0),
    flip_probability: float = 0.5,
    pad: int | None = None,
) -> v2.Transform:
    """Large scale jittering (Ghiasi et al., CVPR 2021): flip, resize to a random scale, and crop what is too large.

    Args:
        image_size: side in pixels of the square that the image fits at scale 1, and the largest size of a crop.
        scale_range: smallest and largest scale.
        flip_probability: of the horizontal flip.
        pad: value of the pixels that pad small images, so that every image has the same size and the padding is part of
            it, as in Mask DINO with 128; None leaves padding to the batch.
    """
    resize = v2.ScaleJitter((image_size, image_size), scale_range=tuple(scale_range), antialias=True)
    steps = [v2.RandomHorizontalFlip(flip_probability), resize, RandomSizeCrop(image_size, image_size)]
    return v2.Compose(steps if pad is None else [*steps, PadToSize(image_size, image_size, pad)])


def detr_test_augmentation(*, short_edge_length: int = 800, max_size: int | None = MAX_SIZE) -> v2.Transform:
    """Resize to one size. Lengths in pixels."""
    return v2.Compose([ResizeShortestEdge(short_edge_length, max_size)])
