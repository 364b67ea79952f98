"""The augmentation of the real-time detectors: RT-DETR, D-FINE and DEIM; and the square images of LW-DETR and RF-DETR.

Transforms as in `transforms.py`. What is limited to epochs reads the epoch of the run from `target["epoch"]`, and
mosaics get further images from `target["draw"]`; `DetrDatasetMapper` and `build_train_loader` put both there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from .epochs import checked_epochs, checked_probability, is_in
from .transforms import CROP_RANGE, SHORT_EDGES_BEFORE_CROP, RandomSizeCrop, ResizeShortestEdge

# LW-DETR's (Chen et al., 2024): sides of square images, multiples of 64 pixels.
SQUARE_SIDES = (448, 512, 576, 640, 704, 768, 832, 896)


class InEpochs(nn.Module):
    """Applies a transform in some epochs of the run, and there with a probability.

    Args:
        transform: called as `transform(image, target)`.
        epochs: [first, end]: in epochs first, .., end - 1; None: in all.
        probability: of applying it to an image.

    Raises:
        ValueError: when `epochs` are out of order, or the probability is not in 0..1.
    """

    def __init__(
        self, transform: nn.Module, *, epochs: Sequence[int | None] | None = None, probability: float = 1.0
    ):
        super().__init__()
        name = type(transform).__name__
        self.transform = transform
        self.epochs = checked_epochs(epochs, name)
        self.probability = checked_probability(probability, name)

    def applies(self, target: dict[str, Any]) -> bool:
        """Whether to apply the transform now: looks at the epoch, and draws.

        Raises:
            ValueError: when it depends on the epoch, and the target has none.
        """
        if self.epochs is not None and target.get("epoch") is None:
            name = type(self.transform).__name__
            raise ValueError(
                f"{name} is limited to epochs {list(self.epochs)}, and the target of the image has no 'epoch': "
                "build_train_loader gives one, others put it into the target"
            )
        chance = float(torch.rand(()))
        return chance < self.probability and (self.epochs is None or is_in(self.epochs, target["epoch"]))

    def forward(self, image: Any, target: dict[str, Any]) -> Any:
        return self.transform(image, target) if self.applies(target) else (image, target)

    def extra_repr(self) -> str:
        return f"epochs={self.epochs}, probability={self.probability}"


class RandomIoUCrop(v2.RandomIoUCrop):
    """torchvision's, which leaves an image without objects as it is, at once: it would look for a crop in vain."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        objects = sum(len(value) for value in flat_inputs if isinstance(value, tv_tensors.BoundingBoxes))
        return super().make_params(flat_inputs) if objects else {}


class Mosaic(nn.Module):
    """Four images in a grid, turned, moved and scaled at random (as in DEIM, Huang et al., CVPR 2025).

    The image comes first, then three that are drawn from the data set, with replacement. All are resized, each lies in
    the upper left corner of its cell, whose sides are the largest among the four, and what is left is black. The affine
    transform takes the nearest pixels.

    Args:
        size: length of the short edge of each of the four in pixels.
        max_size: limit of its long edge; None for no limit.
        degrees: the mosaic is turned by an angle of up to so many degrees to either side.
        translate: it is moved by up to this share of its width and of its height.
        scale: the range of the factor that it is scaled by.

    Raises:
        ValueError: when a number is out of range.
    """

    def __init__(
        self,
        *,
        size: int = 320,
        max_size: int | None = None,
        degrees: float = 10.0,
        translate: float = 0.1,
        scale: Sequence[float] = (0.5, 1.5),
    ):
        super().__init__()
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={list(scale)} of a mosaic must be [low, high] with 0 < low <= high")
        if degrees < 0:
            raise ValueError(f"degrees={degrees} of a mosaic must not be negative")
        if not 0 <= translate <= 1:
            raise ValueError(f"translate={translate} of a mosaic is a share of its sides and must be in 0..1")
        self.resize = ResizeShortestEdge(size, max_size)
        self.affine = v2.RandomAffine(degrees, translate=(translate, translate), scale=tuple(scale), fill=0)

    def forward(self, image: Any, target: dict[str, Any]) -> Any:
        """The mosaic and the objects of all four images.

        Args:
            image: (3, H, W) uint8.
            target: with `boxes`, `labels` and `draw`; masks (T, H, W) go along. Further tensors have a row for each
                object.

        Raises:
            ValueError: when the target has no `draw`.
        """
        if target.get("draw") is None:
            raise ValueError(
                "a mosaic needs further images, and the target of the image has no 'draw': build_train_loader gives one"
            )
        others = [target["draw"]() for _ in range(3)]
        samples = [self.resize(*sample) for sample in ((image, target), *others)]
        cell_height = max(one.shape[-2] for one, _ in samples)
        cell_width = max(one.shape[-1] for one, _ in samples)
        size = 2 * cell_height, 2 * cell_width
        # Rows of RGB pixels: Pillow, whose affine transform is the fastest by far, takes them without a copy.
        pixels = torch.zeros(*size, 3, dtype=image.dtype)
        placed = []
        for number, (one, objects) in enumerate(samples):
            top, left = number // 2 * cell_height, number % 2 * cell_width
            height, width = one.shape[-2:]
            pixels[top : top + height, left : left + width] = one.permute(1, 2, 0)
            padding = [left, top, size[1] - left - width, size[0] - top - height]
            placed.append({name: _padded(objects[name], padding) for name in target if name not in ("epoch", "draw")})
        joined = {name: _joined([objects[name] for objects in placed]) for name in placed[0]}
        turned, joined = self.affine(Image.fromarray(pixels.numpy()), joined)
        array = torch.from_numpy(np.array(turned)).permute(2, 0, 1).contiguous()
        return tv_tensors.Image(array), {**target, **joined}


def _padded(value: Any, padding: list[int]) -> Any:
    """What has a place in an image, moved; anything else as it is."""
    return v2.functional.pad(value, padding) if isinstance(value, tv_tensors.TVTensor) else value


def _joined(parts: list[Any]) -> Any:
    together = torch.cat(parts)
    return tv_tensors.wrap(together, like=parts[0]) if isinstance(parts[0], tv_tensors.TVTensor) else together


class RealtimeAugmentation(nn.Module):
    """Mosaic, photometric distortion, zooming out, IoU crop; then flip and resize to one size, whatever the aspect.

    The order is that of RT-DETR, D-FINE and DEIM. In an image that becomes a mosaic there is no zooming out and no crop.
    Boxes of less than a pixel are left out before the flip and after the resize. Each of the first four is a transform
    or None; in an `InEpochs` it is limited to some epochs and to a probability.

    Args:
        size: (height, width) of the image in pixels, or the side of a square.
        mosaic: a `Mosaic`.
        photometric_distort: e.g. `v2.RandomPhotometricDistort`.
        zoom_out: e.g. `v2.RandomZoomOut`.
        iou_crop: e.g. `RandomIoUCrop`.
        flip_probability: of the horizontal flip.

    Raises:
        ValueError: when the size or the probability is out of range.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        mosaic: InEpochs | None = None,
        photometric_distort: nn.Module | None = None,
        zoom_out: nn.Module | None = None,
        iou_crop: nn.Module | None = None,
        flip_probability: float = 0.5,
    ):
        super().__init__()
        checked_probability(flip_probability, "the flip")
        self.mosaic = mosaic
        self.photometric_distort = photometric_distort
        self.zoom_out = zoom_out
        self.iou_crop = iou_crop
        self.rest = v2.Compose(
            [
                v2.SanitizeBoundingBoxes(min_size=1),
                v2.RandomHorizontalFlip(flip_probability),
                v2.Resize(_pair(size), antialias=True),
                v2.SanitizeBoundingBoxes(min_size=1),
            ]
        )

    def forward(self, image: Any, target: dict[str, Any]) -> Any:
        is_mosaic = self.mosaic is not None and self.mosaic.applies(target)
        if is_mosaic:
            assert self.mosaic is not None
            image, target = self.mosaic.transform(image, target)
        if self.photometric_distort is not None:
            image, target = self.photometric_distort(image, target)
        if not is_mosaic:
            for transform in (self.zoom_out, self.iou_crop):
                if transform is not None:
                    image, target = transform(image, target)
        return self.rest(image, target)


def realtime_test_augmentation(*, size: int | Sequence[int]) -> v2.Transform:
    """Resize to one size, whatever the aspect: (height, width) in pixels, or the side of a square."""
    return v2.Compose([v2.Resize(_pair(size), antialias=True)])


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"size={size} must be at least one pixel high and wide")
    return height, width


def square_train_augmentation(
    *,
    sides: Sequence[int] = SQUARE_SIDES,
    flip_probability: float = 0.5,
    crop_probability: float = 0.5,
    short_edges_before_crop: Sequence[int] = SHORT_EDGES_BEFORE_CROP,
    crop_range: Sequence[int] = CROP_RANGE,
) -> v2.Transform:
    """LW-DETR's: flip, then resize to a square; or, with `crop_probability`, flip, resize, crop and resize to a square.

    Args:
        sides: of the square, in pixels; one is drawn for each image.
        flip_probability: of the horizontal flip.
        crop_probability: of the way with a crop.
        short_edges_before_crop: short edges that the crop is taken from.
        crop_range: shortest and longest side of the crop.

    Raises:
        ValueError: when there is no side, or one below 1.
    """
    sides = list(sides)
    if not sides or min(sides) < 1:
        raise ValueError(f"sides={sides} must be one or more lengths of at least 1 pixel")
    square = v2.RandomChoice([v2.Resize((side, side), antialias=True) for side in sides])
    crop = [ResizeShortestEdge(short_edges_before_crop), RandomSizeCrop(*crop_range), square]
    either = v2.RandomChoice([v2.Compose(crop), square], p=[crop_probability, 1 - crop_probability])
    return v2.Compose([v2.RandomHorizontalFlip(flip_probability), either])
