"""The noise of denoising queries: on labels, and on boxes in the two ways of DN-DETR and DINO."""

import torch
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh


def replace_labels(labels: Tensor, probability: float, num_classes: int) -> Tensor:
    """Replace each label, with a probability, by one drawn evenly from all classes (its own among them).

    Args:
        labels: any shape, classes 0..K-1.
        probability: of being replaced, in 0..1.
        num_classes: K.
    """
    drawn = torch.randint_like(labels, num_classes)
    replaced = torch.rand(labels.shape, device=labels.device) < probability
    return torch.where(replaced, drawn, labels)


def shift_and_scale(boxes: Tensor, scale: float) -> Tensor:
    """Move centres and change sizes evenly within a range (DN-DETR, section 4.2).

    Args:
        boxes: (..., 4) cxcywh in 0..1.
        scale: centres move by at most this share of half the sides, sides change by at most this share of themselves.

    Returns:
        (..., 4) cxcywh, each number kept in 0..1.
    """
    sides = boxes[..., 2:]
    reach = scale * torch.cat([0.5 * sides, sides], dim=-1)
    return (boxes + reach * (2 * torch.rand_like(boxes) - 1)).clamp(min=0, max=1)


def shift_corners(boxes: Tensor, scale: float, negative: Tensor) -> Tensor:
    """Move each coordinate of the two corners, up or down (DINO, section 3.3).

    A positive's coordinate moves by less than `scale` times half the side, a negative's by that to twice that. A
    negative's corners may change places: such a box has no size.

    Args:
        boxes: (..., 4) cxcywh in 0..1.
        scale: the positive radius, in half sides.
        negative: bool, broadcasts to (..., 1).

    Returns:
        (..., 4) cxcywh of corners that are kept in 0..1.
    """
    half_sides = 0.5 * boxes[..., 2:]
    distance = torch.rand_like(boxes) + negative.to(boxes.dtype)
    sign = 2 * torch.randint_like(boxes, 2) - 1
    moved = box_cxcywh_to_xyxy(boxes) + scale * sign * distance * torch.cat([half_sides, half_sides], dim=-1)
    return box_xyxy_to_cxcywh(moved.clamp(min=0, max=1)).clamp(min=0)
