"""The noise of denoising queries: on labels, and on boxes in the variants of DN-DETR and DINO."""

import torch
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh


def replace_labels(labels: Tensor, probability: float, num_classes: int) -> Tensor:
    """Replace each label, with a probability, by one drawn uniformly from all classes (including the same class).

    Args:
        labels: any shape, classes 0..K-1.
        probability: probability of replacement, in 0..1.
        num_classes: K.
    """
    random_labels = torch.randint_like(labels, num_classes)
    replaced = torch.rand(labels.shape, device=labels.device) < probability
    return torch.where(replaced, random_labels, labels)


def shift_and_scale(boxes: Tensor, scale: float) -> Tensor:
    """Move centres and change sizes uniformly within a range (DN-DETR, section 4.2).

    Args:
        boxes: (..., 4) cxcywh in 0..1.
        scale: centres move by at most this fraction of half the sides, and sides change by at most this fraction.

    Returns:
        (..., 4) cxcywh, clamped to 0..1.
    """
    sides = boxes[..., 2:]
    reach = scale * torch.cat([0.5 * sides, sides], dim=-1)
    return (boxes + reach * (2 * torch.rand_like(boxes) - 1)).clamp(min=0, max=1)


def shift_corners(boxes: Tensor, scale: float, negative: Tensor) -> Tensor:
    """Move each coordinate of the two corners in a random direction (DINO, section 3.3).

    Coordinates of positives move by less than `scale` times half the side, those of negatives by `scale` to twice
    `scale` times half the side. The corners of a negative may swap, in which case the box has zero size.

    Args:
        boxes: (..., 4) cxcywh in 0..1.
        scale: the largest noise of positives, in units of half the side.
        negative: bool, broadcasts to (..., 1).

    Returns:
        (..., 4) cxcywh of corners clamped to 0..1.
    """
    half_sides = 0.5 * boxes[..., 2:]
    distance = torch.rand_like(boxes) + negative.to(boxes.dtype)
    sign = 2 * torch.randint_like(boxes, 2) - 1
    moved = box_cxcywh_to_xyxy(boxes) + scale * sign * distance * torch.cat([half_sides, half_sides], dim=-1)
    return box_xyxy_to_cxcywh(moved.clamp(min=0, max=1)).clamp(min=0)
