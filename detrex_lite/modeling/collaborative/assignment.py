"""Which anchors and boxes answer for which object: one-to-many assignment, image by image.

Legend: N anchors or boxes, L levels, T objects of an image, K candidates of an object.
"""

import torch
from torch import Tensor

from ...structures import pairwise_iou
from .pyramid import Anchors

# What is no object's: background, and what takes no part.
BACKGROUND = -1
NEITHER = -2

# The centre of a positive anchor is inside its object by more than this many pixels.
MARGIN = 0.01


def assign_by_overlap(overlaps: Tensor, positive: float, negative: float, best_from: float | None = None) -> Tensor:
    """Assign each box to the object that it overlaps most (Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.2).

    Args:
        overlaps: (T, N) IoU.
        positive: a box with at least this IoU is its object's.
        negative: a box with less is background; what lies between takes no part.
        best_from: the boxes that overlap an object most are its own from this IoU on, whatever `positive` says; where
            they are best for several objects, the last one's. None for no such exception.

    Returns:
        (N,) the object, `BACKGROUND` or `NEITHER`.
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
    """Adaptive training sample selection (Zhang et al., "ATSS", CVPR 2020, algorithm 1).

    The candidates of an object are the anchors of each level whose centres are nearest to its own. Those are its own
    whose IoU is at least the mean of the candidates' IoUs plus their standard deviation, and whose centres it contains.
    An anchor of several objects is that one's which it overlaps most.

    Args:
        anchors: one for each cell.
        is_inside: (N,) bool, False for anchors that take no part.
        objects: (T, 4) xyxy in pixels.
        num_candidates: of each level.

    Returns:
        (N,) the object, `BACKGROUND` or `NEITHER`.
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
    places = centres[candidates]
    margins = torch.cat([places - objects[:, None, :2], objects[:, None, 2:] - places], dim=-1).amin(-1)
    is_positive = counts & (overlaps >= mean + variance.sqrt()) & (margins > MARGIN)
    claims = torch.full_like(every_overlap, -1.0).scatter(1, candidates, overlaps.where(is_positive, -1.0))
    largest, owner = claims.max(dim=0)
    return torch.where(largest >= 0, owner, assigned)


def draw(indices: Tensor, most: int) -> Tensor:
    """So many of the indices (n,), drawn where there are more, by torch's generator, whose state checkpoints have."""
    if len(indices) <= most:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:most]]


def sample(assigned: Tensor, number: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw positives, at most a fraction, and fill up with background.

    Args:
        assigned: (N,), as an assignment gave it.
        number: of positives and background together, at most.
        positive_fraction: the largest share of positives in `number`.

    Returns:
        Indices of positives and of background.
    """
    positive = draw((assigned >= 0).nonzero()[:, 0], int(number * positive_fraction))
    return positive, draw((assigned == BACKGROUND).nonzero()[:, 0], number - len(positive))
