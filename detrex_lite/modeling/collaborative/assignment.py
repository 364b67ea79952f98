"""One-to-many assignment of anchors and boxes to objects, image by image.

Legend: N anchors or boxes, L levels, T objects of an image, K candidates of an object.
"""

import torch
from torch import Tensor

from ...structures import pairwise_iou
from .pyramid import Anchors

# Labels of boxes without an object: background, and boxes that are ignored.
BACKGROUND = -1
NEITHER = -2

# The centre of a positive anchor is inside its object by more than this many pixels.
MARGIN = 0.01


def assign_by_overlap(overlaps: Tensor, positive: float, negative: float, best_from: float | None = None) -> Tensor:
    """Assign each box to the object with the largest overlap (Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.2).

    Args:
        overlaps: (T, N) IoU.
        positive: a box with at least this IoU is assigned to the object.
        negative: a box with a lower IoU is background; boxes in between are ignored.
        best_from: the boxes with the largest overlap with an object are also assigned to it, regardless of `positive`,
            if their IoU is at least this; among several objects the last one wins. None disables this rule.

    Returns:
        (N,) the index of the object, `BACKGROUND` or `NEITHER`.
    """
    if not len(overlaps):
        return torch.full((overlaps.shape[1],), BACKGROUND, device=overlaps.device)
    largest, owner = overlaps.max(dim=0)
    assigned = torch.where(largest >= positive, owner, NEITHER).masked_fill(largest < negative, BACKGROUND)
    if best_from is None:
        return assigned
    best = overlaps.amax(dim=1, keepdim=True)
    numbers = torch.arange(len(overlaps), device=overlaps.device)[:, None]
    last = torch.where((overlaps == best) & (best >= best_from), numbers, -1).amax(dim=0)
    return torch.where(last >= 0, last, assigned)


def assign_atss(anchors: Anchors, is_inside: Tensor, objects: Tensor, num_candidates: int = 9) -> Tensor:
    """Assign anchors by adaptive training sample selection (Zhang et al., "ATSS", CVPR 2020, algorithm 1).

    The candidates of an object are, on each level, the anchors whose centres are nearest to the centre of the object.
    A candidate is assigned to the object if its IoU is at least the mean plus the standard deviation of the candidates'
    IoUs and the object contains its centre. An anchor that fits several objects is assigned to the one with the largest
    overlap.

    Args:
        anchors: one anchor per cell.
        is_inside: (N,) bool, False for anchors that are ignored.
        objects: (T, 4) xyxy in pixels.
        num_candidates: number of candidates on each level.

    Returns:
        (N,) the index of the object, `BACKGROUND` or `NEITHER`.
    """
    assigned = torch.where(is_inside, BACKGROUND, NEITHER)
    if not len(objects):
        return assigned
    centres = anchors.centres()
    distances = torch.linalg.vector_norm((objects[:, None, :2] + objects[:, None, 2:]) / 2 - centres, dim=-1)
    distances = distances.masked_fill(~is_inside, torch.inf)  # (T, N)
    nearest, first = [], 0
    for level, size in zip(distances.split(anchors.sizes, dim=1), anchors.sizes, strict=True):
        nearest.append(level.topk(min(num_candidates, size), dim=1, largest=False).indices + first)
        first += size
    candidates = torch.cat(nearest, dim=1)  # (T, K)
    every_overlap = pairwise_iou(objects, anchors.boxes)
    overlaps, counts = every_overlap.gather(1, candidates), is_inside[candidates]
    number = counts.sum(1, keepdim=True)
    mean = (overlaps * counts).sum(1, keepdim=True) / number
    variance = ((overlaps - mean) ** 2 * counts).sum(1, keepdim=True) / (number - 1).clamp(min=1)
    points = centres[candidates]
    margins = torch.cat([points - objects[:, None, :2], objects[:, None, 2:] - points], dim=-1).amin(-1)
    is_positive = counts & (overlaps >= mean + variance.sqrt()) & (margins > MARGIN)
    claims = torch.full_like(every_overlap, -1.0).scatter(1, candidates, overlaps.where(is_positive, -1.0))
    largest, owner = claims.max(dim=0)
    return torch.where(largest >= 0, owner, assigned)


def draw(indices: Tensor, maximum: int) -> Tensor:
    """Draw at most `maximum` of the indices (n,) with torch's global generator, whose state checkpoints contain."""
    if len(indices) <= maximum:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:maximum]]


def sample(assigned: Tensor, number: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw positives, up to a fraction of `number`, and fill up with background.

    Args:
        assigned: (N,), the result of an assignment.
        number: the largest number of positives and background together.
        positive_fraction: the largest fraction of positives in `number`.

    Returns:
        Indices of positives and of background.
    """
    positive = draw((assigned >= 0).nonzero()[:, 0], int(number * positive_fraction))
    return positive, draw((assigned == BACKGROUND).nonzero()[:, 0], number - len(positive))
