"""Masks of objects: conversion of all annotation formats to one tensor, and boxes of masks.

A segmentation is the shape of one object in annotations: a list of polygons, each a flat list x0, y0, x1, y1, ... in
pixels, or COCO's run lengths {"size": [height, width], "counts": ...}, column by column, as a list of numbers or
compressed text. Polygons are filled by the rules of pycocotools, so that masks are those that COCO evaluates with.
pycocotools is imported on first use.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Segmentation = list[np.ndarray] | dict[str, Any]
"""The result of `checked_segmentation`: polygons as (2P,) float64, or compressed run lengths with `counts` in bytes."""

_REACH = 2**16  # largest distance of a polygon from its image, in pixels: filling it takes memory for each of them


def as_masks(
    masks: Any, size: tuple[int, int], *, image: str = "the image", ids: Sequence[int] | None = None
) -> Tensor:
    """Convert masks of any form to a tensor.

    Args:
        masks: masks of n objects: a tensor or array (n, H, W) of bool or of 0 and 1; an object with such a `tensor`
            (detectron2's BitMasks), or with `polygons` (PolygonMasks: a list of polygons for each object); or a
            sequence of segmentations.
        size: (height, width) of the frame in pixels, which masks must have, and in which polygons are drawn.
        image: description of the image in messages.
        ids: ids of the annotations, for messages; None for their positions.

    Returns:
        (n, height, width) bool, on the device of the given tensor, if any.

    Raises:
        ValueError: when a mask has the wrong size or values, or a segmentation is malformed; it names the image and the
            annotation.
    """
    if hasattr(masks, "tensor"):
        masks = masks.tensor
    elif hasattr(masks, "polygons"):
        masks = masks.polygons
    if isinstance(masks, np.ndarray) and masks.dtype != object:
        masks = torch.from_numpy(masks)
    if isinstance(masks, Tensor):
        return _checked(masks, size, image)
    if isinstance(masks, str | bytes | Mapping) or not isinstance(masks, Sequence):
        raise ValueError(
            f"{image}: masks must be a tensor (n, height, width), BitMasks, PolygonMasks or a list of COCO "
            f"segmentations, one for each object, got a {type(masks).__name__}"
        )
    checked = []
    for row, segmentation in enumerate(masks):
        try:
            checked.append(checked_segmentation(segmentation, size))
        except ValueError as error:
            label = f"object {row}" if ids is None else f"annotation {int(ids[row])}"
            raise ValueError(f"{image}: {label}: {error}") from None
    return _drawn(checked, size)


def _checked(masks: Tensor, size: tuple[int, int], image: str) -> Tensor:
    masks = masks.as_subclass(Tensor)
    if masks.dim() != 3 or tuple(masks.shape[1:]) != tuple(size):
        raise ValueError(
            f"{image}: masks must be (n, {size[0]}, {size[1]}), n objects of an image {size[0]} high and {size[1]} "
            f"wide, got {tuple(masks.shape)}"
        )
    if masks.dtype == torch.bool:
        return masks
    if masks.is_floating_point() or masks.is_complex() or ((masks != 0) & (masks != 1)).any():
        raise ValueError(f"{image}: masks must be bool, or integers 0 and 1, got {_contents(masks)}")
    return masks.bool()


def _contents(masks: Tensor) -> str:
    if masks.is_complex() or not masks.numel():
        return str(masks.dtype)
    return f"{masks.dtype} from {masks.min().item():g} to {masks.max().item():g}"


def checked_segmentation(segmentation: Any, size: tuple[int, int]) -> Segmentation:
    """Check every value of a segmentation, because pycocotools, which draws it, checks none.

    Args:
        segmentation: polygons or run lengths, as in a COCO file.
        size: (height, width) of its image in pixels.

    Raises:
        ValueError: when it is neither, or malformed; the message does not name the object.
    """
    if isinstance(segmentation, Mapping):
        return _checked_run_lengths(segmentation, size)
    if isinstance(segmentation, str | bytes) or not isinstance(segmentation, Sequence):
        raise ValueError(
            "its segmentation must be a list of polygons or run lengths with 'size' and 'counts', got a "
            f"{type(segmentation).__name__}"
        )
    if not segmentation:
        raise ValueError("its segmentation is an empty list: it needs at least one polygon")
    return [_checked_polygon(polygon, number, size) for number, polygon in enumerate(segmentation)]


def _checked_polygon(polygon: Any, number: int, size: tuple[int, int]) -> np.ndarray:
    if isinstance(polygon, int | float):
        raise ValueError("its segmentation is a list of numbers, not of polygons: put one polygon into a list, too")
    try:
        values = np.asarray(polygon)
    except ValueError:  # rows of different lengths
        values = np.asarray(None)
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        raise ValueError(f"polygon {number} must be a flat list of numbers x0, y0, x1, y1, ..")
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"polygon {number} has {len(values)} numbers, but x and y of at least three points are needed")
    values = values.astype(np.float64, copy=False)
    reach = _REACH + max(size)
    if not (np.abs(values) <= reach).all():  # also False for NaN
        wrong = values[~(np.abs(values) <= reach)][0]
        raise ValueError(
            f"polygon {number} has the coordinate {wrong:g}, far outside its image ({size[0]} high, {size[1]} wide)"
        )
    return values


def _checked_run_lengths(segmentation: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    missing = [key for key in ("size", "counts") if key not in segmentation]
    if missing:
        raise ValueError(f"its run lengths have no {' and no '.join(map(repr, missing))}")
    stored_size = segmentation["size"]
    if not isinstance(stored_size, Sequence) or [*stored_size] != [*size]:
        raise ValueError(
            f"its run lengths have the size {stored_size}, but its image is {size[0]} high and {size[1]} wide"
        )
    counts = segmentation["counts"]
    if isinstance(counts, str | bytes):
        try:
            text = counts.encode("ascii") if isinstance(counts, str) else counts
        except UnicodeEncodeError:
            raise ValueError("its run lengths contain a character that compressed run lengths do not have") from None
        lengths = _uncompressed(text)
    else:
        try:
            lengths = np.asarray(counts)
        except ValueError:
            lengths = np.asarray(None)
        if lengths.size == 0 or lengths.dtype.kind not in "iu" or lengths.ndim != 1:
            raise ValueError("'counts' of its run lengths must be a list of integers, or text")
    if (lengths < 0).any() or int(lengths.sum()) != math.prod(size):
        reason = "one is negative" if (lengths < 0).any() else f"they add up to {int(lengths.sum())}"
        raise ValueError(f"its run lengths must add up to the {math.prod(size)} pixels of its image: {reason}")
    if not isinstance(counts, str | bytes):
        from pycocotools import mask as coco_mask

        text = coco_mask.frPyObjects({"size": [*size], "counts": lengths.tolist()}, *size)["counts"]
    return {"size": [*size], "counts": text}


def _uncompressed(text: bytes) -> np.ndarray:
    """Decode pycocotools' compressed run lengths: five bits per character, as differences from the run before last."""
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if not len(codes) or (codes < 0).any() or (codes > 63).any():
        raise ValueError("its run lengths contain a character that compressed run lengths do not have")
    is_last = (codes & 32) == 0  # the last character of a number
    if not is_last[-1]:
        raise ValueError("its run lengths end in the middle of a number")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 6:  # 35 bits; an image has fewer pixels
        raise ValueError("its run lengths contain a number that exceeds the pixels of any image")
    digit = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((codes & 31) << (5 * digit), starts)
    negative = (codes[ends] & 16) != 0
    values = np.where(negative, values - (1 << (5 * (ends - starts + 1))), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])  # the first run is not a difference
    return values


def _drawn(segmentations: Sequence[Segmentation], size: tuple[int, int]) -> Tensor:
    """Draw the results of `checked_segmentation`: (n, height, width) bool."""
    masks = torch.zeros((len(segmentations), *size), dtype=torch.bool)
    for mask, run_length in zip(masks.numpy(), filled_segmentations(segmentations, size), strict=True):
        _fill(mask, _uncompressed(run_length["counts"]))
    return masks


def filled_segmentations(segmentations: Sequence[Segmentation], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Fill the polygons of segmentations, without an array of pixels.

    Args:
        segmentations: n results of `checked_segmentation`.
        size: (height, width) of their image in pixels.

    Returns:
        {"size": [height, width], "counts": compressed run lengths in bytes} for each segmentation.
    """
    from pycocotools import mask as coco_mask

    polygons = [segmentation for segmentation in segmentations if isinstance(segmentation, list)]
    filled = iter(
        coco_mask.frPyObjects([polygon for segmentation in polygons for polygon in segmentation], *size)
        if polygons
        else []
    )
    lengths = []
    for segmentation in segmentations:
        if isinstance(segmentation, list):
            parts = [next(filled) for _ in segmentation]
            lengths.append(coco_mask.merge(parts) if len(parts) > 1 else parts[0])
        else:
            lengths.append(segmentation)
    return lengths


def _fill(mask: np.ndarray, lengths: np.ndarray) -> None:
    """Set the pixels of run lengths, faster than `pycocotools.mask.decode` since most objects are small.

    Args:
        mask: (H, W) bool, all False.
        lengths: lengths of alternating runs of pixels outside and inside, column by column.
    """
    height = mask.shape[0]
    ends = np.cumsum(lengths)
    starts, stops = ends[:-1:2], ends[1::2]
    starts, stops = starts[starts < stops], stops[starts < stops]
    if not len(starts):
        return
    left, right = starts[0] // height, (stops[-1] - 1) // height + 1
    top, bottom = 0, height
    if (starts // height == (stops - 1) // height).all():  # no run continues in the next column
        top, bottom = (starts % height).min(), ((stops - 1) % height).max() + 1
    runs = np.diff(np.clip(ends, left * height, right * height), prepend=left * height)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(right - left, height)
    mask[top:bottom, left:right] = columns[:, top:bottom].T


def run_lengths(masks: Tensor) -> list[dict[str, Any]]:
    """Convert masks to COCO's compressed run lengths, ready for JSON.

    Args:
        masks: (n, H, W) bool.

    Returns:
        {"size": [H, W], "counts": text} for each mask.
    """
    from pycocotools import mask as coco_mask

    if not len(masks):
        return []
    pixels = masks.cpu().transpose(1, 2).contiguous().view(torch.uint8).numpy().transpose(2, 1, 0)
    encoded = coco_mask.encode(pixels)  # in column order, which needs no copy
    return [
        {"size": [int(side) for side in encoded_mask["size"]], "counts": encoded_mask["counts"].decode("ascii")}
        for encoded_mask in encoded
    ]


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Compute the boxes around masks: the outer edges of the outermost pixels, so that a single pixel has area 1.

    Args:
        masks: (n, H, W) bool.

    Returns:
        (n, 4) float32 xyxy in pixels; zeros for a mask without pixels.
    """
    height, width = masks.shape[-2:]
    # The maximum of bytes takes a fiftieth of the time of `any`.
    pixels = masks.view(torch.uint8)
    edges = []
    for line, length in ((pixels.amax(-2), width), (pixels.amax(-1), height)):
        positions = torch.arange(length, device=masks.device)
        edges.append(
            (torch.where(line > 0, positions, length).amin(-1), torch.where(line > 0, positions + 1, 0).amax(-1))
        )
    (x0, x1), (y0, y1) = edges
    boxes = torch.stack([x0, y0, x1, y1], dim=-1)
    return torch.where((x1 > 0)[:, None], boxes, 0).to(torch.float32)


def has_pixels(masks: Tensor) -> Tensor:
    """Return (n,) bool, True for masks, (n, H, W) bool, that are not empty."""
    return masks.view(torch.uint8).flatten(1).amax(-1) > 0
