"""Box arithmetic. Formats: cxcywh (centre, width, height) and xyxy (two corners), in any unit."""

import torch
from torch import Tensor


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (..., 4) cxcywh to (..., 4) xyxy in the same unit."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert (..., 4) xyxy to (..., 4) cxcywh in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([0.5 * (low + high), high - low], dim=-1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Compute (intersection, union) of boxes that broadcast against each other, (..., 4) xyxy."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, _area(a) + _area(b) - intersection


def _ratio(part: Tensor, whole: Tensor, eps: float = 0.0) -> Tensor:
    # Two boxes without area have an empty union: their overlap is defined as 0 instead of NaN. Boxes in 0..1 are far
    # larger than the smallest normal number, so real quotients are not affected.
    return part / (whole + eps).clamp(min=torch.finfo(whole.dtype).tiny)


def generalized_box_iou(a: Tensor, b: Tensor, eps: float = 0.0, least_area: float = 0.0) -> Tensor:
    """Compute the generalised IoU in -1..1 (Rezatofighi et al., CVPR 2019) of boxes that broadcast.

    Args:
        a: (..., 4) xyxy.
        b: (..., 4) xyxy, same unit.
        eps: added to both denominators.
        least_area: lower bound of the areas of the union and of the enclosing box, as in mmdetection.

    Returns:
        (...) the IoU minus the fraction of the smallest enclosing box that neither box covers.
    """
    intersection, union = _overlap(a, b)
    enclosing_sides = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    enclosing = enclosing_sides[..., 0] * enclosing_sides[..., 1]
    if least_area:
        union, enclosing = union.clamp(min=least_area), enclosing.clamp(min=least_area)
    return _ratio(intersection, union, eps) - _ratio(enclosing - union, enclosing, eps)


def box_iou(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Compute the IoU in 0..1 of boxes that broadcast against each other.

    Args:
        a: (..., 4) xyxy.
        b: (..., 4) xyxy, same unit.
        eps: added to the union.

    Returns:
        (...).
    """
    return _ratio(*_overlap(a, b), eps)


def pairwise_iou(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Compute the IoU of every pair. a: (..., N, 4) xyxy; b: (..., M, 4) xyxy, same unit. Returns (..., N, M)."""
    return box_iou(a[..., :, None, :], b[..., None, :, :], eps)


def pairwise_generalized_box_iou(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """Compute the generalised IoU of every pair. a: (..., N, 4), b: (..., M, 4), xyxy. Returns (..., N, M)."""
    return generalized_box_iou(a[..., :, None, :], b[..., None, :, :], eps)


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Compute the logit of `x` in 0..1; x and 1 - x are clamped to at least `eps`, so that the result is finite.

    The default is that of detrex and of the repositories of DAB-DETR, DN-DETR and DINO; those of Deformable DETR,
    Conditional DETR and H-Deformable DETR, and transformers, use 1e-5.
    """
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
