"""Augmentations of the real-time detectors RT-DETR, D-FINE and DEIM, and the square images of LW-DETR and RF-DETR.

These are transforms as in `transforms.py`. Transforms that are limited to epochs read the epoch from `target["epoch"]`,
and mosaics get further images from `target["draw"]`; `DetrDatasetMapper` and `build_train_loader` provide both.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from .epochs import checked_epochs, checked_probability, is_in
from .object_masks import ObjectMasks, move_pixels
from .transforms import CROP_RANGE, SHORT_EDGES_BEFORE_CROP, RandomSizeCrop, ResizeShortestEdge

# LW-DETR's (Chen et al., 2024): sides of square images, multiples of 64 pixels.
SQUARE_SIDES = (448, 512, 576, 640, 704, 768, 832, 896)


class InEpochs(nn.Module):
    """Applies a transform in some epochs of the run, with a probability.

    Args:
        transform: called as `transform(image, target)`.
        epochs: [first, end]: in epochs first, ..., end - 1; None: in all.
        probability: probability of applying it to an image.

    Raises:
        ValueError: when `epochs` are out of order, or the probability is not in 0..1.
    """

    def __init__(self, transform: nn.Module, *, epochs: Sequence[int | None] | None = None, probability: float = 1.0):
        super().__init__()
        name = type(transform).__name__
        self.transform = transform
        self.epochs = checked_epochs(epochs, name)
        self.probability = checked_probability(probability, name)

    def applies(self, target: dict[str, Any]) -> bool:
        """Whether to apply the transform to this target, by its epoch and a random number.

        Raises:
            ValueError: when it depends on the epoch, but the target has none.
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


class RandomIoUCrop(nn.Module):
    """A crop with a minimum IoU with some object, as in SSD (Liu et al., ECCV 2016).

    The minimum IoU of the region with an object is drawn from `overlaps`, where 1 leaves the image unchanged. Several
    regions are then drawn, and the first is used in which some object with its centre in the region has that IoU; if
    there is none, the IoU is drawn again. Objects with centres outside are removed, and boxes of others are clipped.

    torchvision has the same transform, which tests one region after the other and takes ten times as long.

    Args:
        scale: range of the region's sides, as fractions of the image's.
        aspect_ratio: range of its width over its height in pixels.
        overlaps: minimum IoUs to draw from with equal probability; one must be 1 or more.
        trials: number of regions for each drawn IoU.

    Raises:
        ValueError: when an argument is out of range, or no overlap leaves the image unchanged.
    """

    def __init__(
        self,
        *,
        scale: Sequence[float] = (0.3, 1.0),
        aspect_ratio: Sequence[float] = (0.5, 2.0),
        overlaps: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        trials: int = 40,
    ):
        super().__init__()
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale={list(scale)} of an IoU crop must be [low, high] with 0 < low <= high <= 1")
        if len(aspect_ratio) != 2 or not 0 < aspect_ratio[0] <= aspect_ratio[1]:
            raise ValueError(f"aspect_ratio={list(aspect_ratio)} of an IoU crop must be [low, high], 0 < low <= high")
        if not overlaps or max(overlaps) < 1 or min(overlaps) < 0:
            raise ValueError(
                f"overlaps={list(overlaps)} of an IoU crop must not be negative, and one must be 1 or more"
            )
        if trials < 1:
            raise ValueError(f"trials={trials} of an IoU crop must be at least 1")
        self.scale = (scale[0], scale[1])
        self.aspect_ratio = (aspect_ratio[0], aspect_ratio[1])
        self.overlaps = tuple(overlaps)
        self.trials = trials

    def forward(self, image: Any, target: dict[str, Any]) -> Any:
        """Return the region and its objects.

        Args:
            image: (3, H, W).
            target: with `boxes` and `labels`, and possibly masks (T, H, W). Further tensors have a row per object.
        """
        boxes = target["boxes"].as_subclass(torch.Tensor)
        while len(boxes):
            overlap = self.overlaps[int(torch.randint(len(self.overlaps), ()))]
            if overlap >= 1:
                break
            region = self._find(boxes, overlap, image.shape[-2], image.shape[-1])
            if region is not None:
                (top, left, height, width), inside = region
                return v2.functional.crop(image, top, left, height, width), {
                    name: _cropped(value, inside, top, left, height, width) for name, value in target.items()
                }
        return image, target

    def _find(
        self, boxes: torch.Tensor, overlap: float, height: int, width: int
    ) -> tuple[list[int], torch.Tensor] | None:
        """Return the first valid random region, as (top, left, height, width), and a mask of the objects in it."""
        low, high = self.scale
        sides, offsets = torch.rand(2, self.trials, 2)
        size = torch.tensor([width, height])
        extents = (size * (low + (high - low) * sides)).long()
        starts = ((size - extents) * offsets).long()
        regions = torch.cat([starts, starts + extents], dim=-1)
        ratio = extents[:, 0] / extents[:, 1]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((regions[:, None, :2] < centres) & (centres < regions[:, None, 2:])).all(-1)  # (trials, T)
        overlaps = box_iou(regions.to(boxes.dtype), boxes)
        good = (inside & (overlaps >= overlap)).any(-1)
        good &= (ratio >= self.aspect_ratio[0]) & (ratio <= self.aspect_ratio[1])
        if not good.any():
            return None
        first = int(good.int().argmax())
        left, top, right, bottom = regions[first].tolist()
        return [top, left, bottom - top, right - left], inside[first]


def _cropped(value: Any, inside: torch.Tensor, top: int, left: int, height: int, width: int) -> Any:
    """Select the rows of the remaining objects, and crop values that have positions in the image."""
    if not isinstance(value, torch.Tensor):
        return value
    if not isinstance(value, tv_tensors.TVTensor):
        return value[inside]
    moved = v2.functional.crop(value, top, left, height, width)
    return tv_tensors.wrap(moved.as_subclass(torch.Tensor)[inside], like=moved)


class Mosaic(nn.Module):
    """Four images in a grid, randomly rotated, translated and scaled (as in DEIM, Huang et al., CVPR 2025).

    The image comes first, followed by three that are drawn from the data set, with replacement. All are resized and
    placed in the upper left corners of their cells, whose sides are the largest of the four; the rest is black. The
    affine transform uses nearest-neighbour sampling.

    Args:
        size: length of the short edge of each image in pixels.
        max_size: limit of the long edge; None for no limit.
        degrees: largest rotation in degrees, in either direction.
        translate: largest translation, as a fraction of the mosaic's width and height.
        scale: range of the scale factor.

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
        self.degrees = degrees
        self.translate = translate
        self.scale = (scale[0], scale[1])

    def forward(self, image: Any, target: dict[str, Any]) -> Any:
        """Return the mosaic and the objects of all four images.

        Args:
            image: (3, H, W) uint8.
            target: with `boxes`, `labels` and `draw`, and possibly masks (T, H, W). Further tensors have a row per
                object.

        Raises:
            ValueError: when the target has no `draw`.
        """
        if target.get("draw") is None:
            raise ValueError(
                "a mosaic needs further images, and the target of the image has no 'draw': build_train_loader gives one"
            )
        other_samples = [target["draw"]() for _ in range(3)]
        samples = [self.resize(*sample) for sample in ((image, target), *other_samples)]
        cell_height = max(sample_image.shape[-2] for sample_image, _ in samples)
        cell_width = max(sample_image.shape[-1] for sample_image, _ in samples)
        size = 2 * cell_height, 2 * cell_width
        # Pixels are in the layout of Pillow, whose affine transform is the fastest, to avoid a copy.
        pixels = torch.zeros(*size, 3, dtype=image.dtype)
        placed = []
        for number, (sample_image, objects) in enumerate(samples):
            top, left = number // 2 * cell_height, number % 2 * cell_width
            height, width = sample_image.shape[-2:]
            pixels[top : top + height, left : left + width] = sample_image.permute(1, 2, 0)
            padding = [left, top, size[1] - left - width, size[0] - top - height]
            placed.append({name: _padded(objects[name], padding) for name in target if name not in ("epoch", "draw")})
        joined = {name: _joined([objects[name] for objects in placed]) for name in placed[0]}
        geometry = self._draw(size)
        transformed = _affine(Image.fromarray(pixels.numpy()), geometry)
        joined = {
            name: _affine_boxes(value, geometry) if name == "boxes" else _affine(value, geometry)
            for name, value in joined.items()
        }
        array = torch.from_numpy(np.array(transformed)).permute(2, 0, 1).contiguous()
        return tv_tensors.Image(array), {**target, **joined}

    def _draw(self, size: tuple[int, int]) -> "_Affine":
        turn, right, down, factor = torch.rand(4).tolist()
        low, high = self.scale
        return _Affine(
            angle=(2 * turn - 1) * self.degrees,
            translate=(
                round((2 * right - 1) * self.translate * size[1]),
                round((2 * down - 1) * self.translate * size[0]),
            ),
            scale=low + factor * (high - low),
        )


class _Affine(NamedTuple):
    """A map of an image onto itself: rotated clockwise by degrees and scaled around its centre, then translated by
    pixels to the right and downwards.
    """

    angle: float
    translate: tuple[int, int]
    scale: float


def _affine(value: Any, geometry: _Affine) -> Any:
    """Apply the map to an image or masks; values without positions in the image are returned unchanged."""
    if isinstance(value, ObjectMasks):  # by the rules of images, and a hundred times as fast as torchvision

        def move(bits: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.array(_affine(Image.fromarray(bits.numpy()), geometry)))

        return tv_tensors.wrap(move_pixels(value.as_subclass(torch.Tensor), move), like=value)
    if not isinstance(value, Image.Image | tv_tensors.Mask):
        return value
    angle, translate, scale = geometry
    return v2.functional.affine(value, angle=angle, translate=list(translate), scale=scale, shear=[0.0, 0.0], fill=[0])


def _affine_boxes(boxes: tv_tensors.BoundingBoxes, geometry: _Affine) -> tv_tensors.BoundingBoxes:
    """Compute the boxes around the visible parts of transformed boxes; 0, 0, 0, 0 if nothing is visible.

    torchvision and the published code transform a box, take the box around the result and clip it to the image, which
    is larger than the visible part if a corner is outside.

    Args:
        boxes: (T, 4) xyxy in pixels.
        geometry: the map of the image.
    """
    height, width = boxes.canvas_size
    x0, y0, x1, y1 = boxes.as_subclass(torch.Tensor).double().unbind(-1)
    centre = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    corners = torch.stack([torch.stack(pair, -1) for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1) - centre
    angle = math.radians(geometry.angle)
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    moved = centre + torch.tensor(geometry.translate, dtype=torch.float64)
    corners = geometry.scale * corners @ turn + moved  # (T, 4, 2)
    visible = torch.stack([_box_around_visible(polygon, (height, width)) for polygon in corners]) if len(boxes) else x0
    return tv_tensors.wrap(visible.reshape(-1, 4).to(boxes.dtype), like=boxes)


def _box_around_visible(polygon: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Compute the box around the part of a convex polygon that is inside the image.

    Args:
        polygon: (N, 2) corners x, y in pixels, in order.
        size: (height, width) of the image in pixels.

    Returns:
        (4,) xyxy in pixels; zeros if nothing is visible.
    """
    points = polygon.tolist()
    for axis, limit, sign in ((0, 0, 1), (0, size[1], -1), (1, 0, 1), (1, size[0], -1)):
        # Sutherland and Hodgman (1974): clip the polygon at this side of the image.
        inside = [sign * (point[axis] - limit) >= 0 for point in points]
        if all(inside):
            continue
        remaining = []
        for number, point in enumerate(points):
            previous = points[number - 1]
            if inside[number] != inside[number - 1]:
                share = (limit - previous[axis]) / (point[axis] - previous[axis])
                remaining.append([a + share * (b - a) for a, b in zip(previous, point, strict=True)])
            if inside[number]:
                remaining.append(point)
        points = remaining
    if not points:
        return polygon.new_zeros(4)
    x, y = zip(*points, strict=True)
    return polygon.new_tensor([min(x), min(y), max(x), max(y)])


def _padded(value: Any, padding: list[int]) -> Any:
    """Pad values that have positions in the image; return others unchanged."""
    return v2.functional.pad(value, padding) if isinstance(value, tv_tensors.TVTensor) else value


def _joined(parts: list[Any]) -> Any:
    together = torch.cat(parts)
    return tv_tensors.wrap(together, like=parts[0]) if isinstance(parts[0], tv_tensors.TVTensor) else together


class RealtimeAugmentation(nn.Module):
    """Mosaic, photometric distortion, zooming out and IoU crop; then flip and resize, without keeping the aspect ratio.

    The order is that of RT-DETR, D-FINE and DEIM. Images that become a mosaic are neither zoomed out nor cropped. Boxes
    thinner than a pixel are removed before the flip and after the resize. Each of the first four is a transform or
    None; an `InEpochs` limits it to some epochs and to a probability.

    Args:
        size: (height, width) of the image in pixels, or the side of a square.
        mosaic: a `Mosaic`.
        photometric_distort: e.g. `RandomPhotometricDistort`.
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
    """Resize to a fixed size without keeping the aspect ratio: (height, width) in pixels, or the side of a square."""
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
    """LW-DETR's augmentation: flip and resize to a square or, with `crop_probability`, flip, resize, crop and resize.

    Args:
        sides: sides of the square in pixels, one of which is drawn for each image.
        flip_probability: of the horizontal flip.
        crop_probability: probability of the variant with a crop.
        short_edges_before_crop: short edges before the crop.
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
