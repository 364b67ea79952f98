"""Masks in transforms of torchvision v2: one per object, transformed like the pixels of the image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class ObjectMasks(tv_tensors.Mask):
    """(n, H, W) uint8 of zeros and ones: the mask of each object.

    Transforms treat it as any `tv_tensors.Mask`, with two differences. A resize samples the pixel that contains the
    centre of the new pixel, as for images, whereas torchvision is off by up to half a pixel; and it transforms eight
    masks at once, as bits of a byte. Regions from outside the image are never part of an object, whatever the image is
    filled with there.
    """


def move_pixels(masks: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Transform masks by moving, copying or dropping pixels, eight masks at a time.

    Args:
        masks: (n, H, W) uint8 of zeros and ones, or bool.
        move: maps (H, W) uint8 to (h, w) uint8, in which each pixel is one of the input pixels, or 0.

    Returns:
        (n, h, w) of the same dtype.
    """
    dtype, masks = masks.dtype, masks.view(torch.uint8)
    if not len(masks):
        moved = move(masks.new_zeros(masks.shape[1:]))
        return moved.new_zeros((0, *moved.shape)).view(dtype)
    parts = []
    for group in masks.split(8):
        bits = group[0].clone()
        for bit in range(1, len(group)):
            bits |= group[bit] << bit
        parts.append(move(bits))
    result = masks.new_empty((len(masks), *parts[0].shape))
    for number, mask in enumerate(result):
        torch.bitwise_and(parts[number // 8] >> number % 8, 1, out=mask)
    return result.view(dtype)


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks; a pixel of the result is the one that contains its centre.

    Args:
        masks: (n, H, W) uint8 of zeros and ones, or bool.
        size: (height, width) in pixels.
    """
    if tuple(masks.shape[1:]) == tuple(size):
        return masks
    # Computed in integers, so that rounding never moves a centre: the floor of (index + 1/2) * old / new.
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(masks.shape[1:], size, strict=True)
    )
    return move_pixels(masks, lambda bits: torch.from_numpy(bits.numpy().take(columns, 1).take(rows, 0)))


@v2.functional.register_kernel(functional="resize", tv_tensor_cls=ObjectMasks)
def _resize(masks: ObjectMasks, size: Any, max_size: int | None = None, **options: Any) -> ObjectMasks:
    height, width = masks.shape[-2:]
    # torchvision's rules for `size` and `max_size`, obtained by resizing an empty set of boxes.
    nothing = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(height, width))
    canvas = v2.functional.resize(nothing, size, max_size=max_size).canvas_size
    return tv_tensors.wrap(resize_masks(masks.as_subclass(Tensor), canvas), like=masks)


@v2.functional.register_kernel(functional="pad", tv_tensor_cls=ObjectMasks)
def _pad(
    masks: ObjectMasks, padding: Any, fill: Any = None, padding_mode: str = "constant", **options: Any
) -> ObjectMasks:
    padded = v2.functional.pad_mask(masks.as_subclass(Tensor), padding, fill=0, padding_mode=padding_mode)
    return tv_tensors.wrap(padded, like=masks)


def _without_fill(name: str) -> None:
    kernel = getattr(v2.functional, f"{name}_mask")

    @v2.functional.register_kernel(functional=name, tv_tensor_cls=ObjectMasks)
    def moved(masks: ObjectMasks, *, interpolation: Any = None, fill: Any = None, **geometry: Any) -> ObjectMasks:
        return tv_tensors.wrap(kernel(masks.as_subclass(Tensor), fill=0, **geometry), like=masks)


for _name in ("affine", "rotate", "perspective", "elastic"):
    _without_fill(_name)
