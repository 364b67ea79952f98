"""Transforms of whole training batches. Random choices come from torch's generator."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..structures import Boxes, Instances, has_pixels
from .epochs import checked_epochs, checked_probability, is_in
from .object_masks import resize_masks

Samples = list[dict[str, Any]]

INTERPOLATIONS = ("nearest", "bilinear")


class MultiScale:
    """Resizes all images of a batch to one square, whose side is drawn for each batch.

    The side is the same for all processes, so that a run does not depend on their number and no process waits for the
    one with the largest images. (RT-DETR, D-FINE and DEIM draw in each process.) Boxes and masks are resized with the
    images; objects whose mask becomes empty are removed.

    Args:
        sizes: sides in pixels to choose from with equal probability; a repeated one is drawn more often.
        epochs: [first, end]: batches of epochs first, ..., end - 1 are resized; None: all.
        interpolation: "nearest", as published, or "bilinear".
        divisor: number that must divide all sizes: the largest stride of the model.

    Raises:
        ValueError: without sizes, when a size is not a multiple of `divisor`, or another argument is out of range.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        epochs: Sequence[int | None] | None = None,
        interpolation: str = "nearest",
        divisor: int = 32,
    ):
        sizes = list(sizes)
        if divisor < 1:
            raise ValueError(f"divisor={divisor} of multi-scale batches must be at least 1")
        wrong = [size for size in sizes if size < 1 or size % divisor]
        if wrong or not sizes:
            reason = f"{wrong} are not" if wrong else "there is none"
            raise ValueError(f"sizes={sizes} of multi-scale batches must be multiples of {divisor} pixels: {reason}")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation={interpolation!r} must be one of {', '.join(INTERPOLATIONS)}")
        self.sizes = tuple(sizes)
        self.epochs = checked_epochs(epochs, "multi-scale batches")
        self.interpolation = interpolation

    def __call__(self, samples: Samples, *, epoch: int) -> Samples:
        """Resize the samples to the size drawn for their batch.

        Args:
            samples: with `image` (3, H, W) and `instances`.
            epoch: of the batch.
        """
        if not is_in(self.epochs, epoch):
            return samples
        size = self.sizes[int(torch.randint(len(self.sizes), ()))]
        return [_resized(sample, size, self.interpolation) for sample in samples]


def _resized(sample: dict[str, Any], size: int, interpolation: str) -> dict[str, Any]:
    height, width = sample["image"].shape[-2:]
    if (height, width) == (size, size):
        return sample
    corners = None if interpolation == "nearest" else False
    image = F.interpolate(sample["image"][None], (size, size), mode=interpolation, align_corners=corners)[0]
    fields = _known_fields(sample)
    boxes = fields.gt_boxes.tensor * torch.tensor([size / width, size / height] * 2)
    resized = Instances((size, size), gt_boxes=Boxes(boxes), gt_classes=fields.gt_classes)
    if fields.has("gt_masks"):
        resized.gt_masks = resize_masks(fields.gt_masks, (size, size))
        is_visible = has_pixels(resized.gt_masks)
        resized = resized if is_visible.all() else resized[is_visible]
    return {**sample, "image": image, "instances": resized}


def _known_fields(sample: dict[str, Any]) -> Instances:
    """Return the objects of a sample.

    Raises:
        ValueError: when they have further fields, for which no resizing is defined.
    """
    instances: Instances = sample["instances"]
    if further := sorted(set(instances.get_fields()) - {"gt_boxes", "gt_classes", "gt_masks"}):
        raise ValueError(
            f"multi-scale batches resize gt_boxes and gt_masks, and the mapper gives {', '.join(further)} besides"
        )
    return instances


def scales_around(base: int, repeat: int) -> list[int]:
    """List sizes from three quarters to five quarters of `base` in steps of 32, with `base` repeated `repeat` times.

    `scales_around(640, 3)` gives those of RT-DETRv2: 480, 512, ..., 608, 640, 640, 640, 800, 768, ..., 672.

    Args:
        base: the size in the middle, in pixels; a multiple of 32.
        repeat: how often it is listed.

    Raises:
        ValueError: when `base` is not a multiple of 32 of at least 64, or `repeat` is below 1.
    """
    if base < 64 or base % 32:
        raise ValueError(f"base={base} of multi-scale batches must be a multiple of 32 pixels from 64")
    if repeat < 1:
        raise ValueError(f"repeat={repeat} must be at least 1: the base size is one of the sizes")
    smallest, largest = (int(base * share / 32) * 32 for share in (0.75, 1.25))
    steps = range(0, base - smallest, 32)
    return [*(smallest + step for step in steps), *[base] * repeat, *(largest - step for step in steps)]


class Mixup:
    """Blends each image of a batch with the previous one, with the objects of both (DEIM, Huang et al., CVPR 2025).

    The first image is blended with the last. Either all images of the batch of all processes are blended, or none.
    Losses weight the objects of both images equally.

    Args:
        probability: probability that a batch is blended.
        epochs: [first, end]: in epochs first, ..., end - 1; None: in all.
        share: range of the weight of the image itself, which is drawn for each batch.

    Raises:
        ValueError: when an argument is out of range.
    """

    def __init__(
        self,
        *,
        probability: float = 0.5,
        epochs: Sequence[int | None] | None = None,
        share: Sequence[float] = (0.45, 0.55),
    ):
        self.probability = checked_probability(probability, "mixup")
        self.epochs = checked_epochs(epochs, "mixup")
        if len(share) != 2 or not 0 <= share[0] <= share[1] <= 1:
            raise ValueError(f"share={list(share)} of mixup must be [low, high] with 0 <= low <= high <= 1")
        self.share = (share[0], share[1])

    def __call__(self, samples: Samples, before: Callable[[], dict[str, Any]], *, epoch: int) -> Samples:
        """Blend the samples, or return them unchanged.

        Args:
            samples: with `image` (3, H, W) uint8 and `instances`, of one size.
            before: returns the sample before the first one.
            epoch: of the batch.

        Raises:
            ValueError: when images have different sizes.
        """
        # Both numbers are always drawn, so that later random numbers do not depend on the settings.
        chance, weight = torch.rand(2).tolist()
        if not is_in(self.epochs, epoch) or chance >= self.probability:
            return samples
        low, high = self.share
        partners = [before(), *samples[:-1]]
        return [
            _blended(sample, partner, low + weight * (high - low))
            for sample, partner in zip(samples, partners, strict=True)
        ]


def _blended(sample: dict[str, Any], partner: dict[str, Any], share: float) -> dict[str, Any]:
    """Blend `sample` with `partner`."""
    images: list[Tensor] = [sample["image"], partner["image"]]
    if images[0].shape != images[1].shape:
        sizes = " and ".join(f"{image.shape[-1]}x{image.shape[-2]}" for image in images)
        raise ValueError(
            f"mixup needs images of one size, and {sample['file_name']} and {partner['file_name']} have {sizes}: let "
            "the augmentation end with a resize to one size, as RealtimeAugmentation does"
        )
    image = torch.empty_like(images[0], memory_format=torch.contiguous_format)
    # Images are processed in chunks whose floating-point values fit into the processor's cache.
    parts = zip(*(pixels.reshape(-1).split(32768) for pixels in (*images, image)), strict=True)
    for sample_part, partner_part, blended in parts:
        # Values are rounded to the nearest integer; the published code blends floating-point values.
        blended.copy_(torch.lerp(partner_part.float(), sample_part.float(), share).round_())
    return {**sample, "image": image, "instances": Instances.cat([sample["instances"], partner["instances"]])}
