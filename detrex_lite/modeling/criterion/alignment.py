"""Losses for one-to-many matching, weighted by the alignment of score and box of each query (TOOD; DDQ).

Legend: B batch, R queries of all sets of an image, M matched pairs of all sets, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, generalized_box_iou
from ..quality import overlap_quality
from .comparison import Comparison
from .losses import Mean


def alignment(comparison: Comparison, score_power: float, overlap_power: float) -> Tensor:
    """Compute the alignment of each matched query, without gradients (Feng et al., "TOOD", ICCV 2021, eq. 5 and 6).

    With the probability s of the object's class and the IoU u of the boxes, it is a = s^score_power * u^overlap_power,
    scaled so that the best query of each object has the largest IoU among the object's queries.

    Args:
        comparison: sets with several queries per object.
        score_power, overlap_power: the exponents.

    Returns:
        (M,), in 0..1.
    """
    with torch.no_grad():
        overlaps = overlap_quality(comparison.boxes, comparison.target_boxes)
        scores = comparison.logits[comparison.image, comparison.query, comparison.labels].sigmoid()
        aligned = (scores**score_power * overlaps**overlap_power).to(overlaps.dtype)
        share = aligned / (comparison.largest_of_object(aligned) + 1e-7)
        return share * comparison.largest_of_object(overlaps)


class AlignmentFocalLoss:
    """Sigmoid cross-entropy with the alignment as target: a quality focal loss (Li et al., NeurIPS 2020, eq. 2).

    For a class with the probability p and the target a, which is 0 except for the classes of matched queries, the
    weight is |a - p|^gamma, which has gradients. The loss is divided by the sum of all targets, at least 1.

    Args:
        gamma: exponent that reduces the weight of easy examples.
        score_power, overlap_power: see `alignment`.
    """

    def __init__(self, gamma: float = 2.0, score_power: float = 1.0, overlap_power: float = 6.0):
        self.gamma = gamma
        self.score_power = score_power
        self.overlap_power = overlap_power

    def __call__(self, comparison: Comparison) -> Mean:
        targets = comparison.class_targets(alignment(comparison, self.score_power, self.overlap_power))
        weight = (targets - comparison.logits.sigmoid()).abs() ** self.gamma
        loss = weight * F.binary_cross_entropy_with_logits(comparison.logits, targets, reduction="none")
        return Mean(loss.sum(-1), targets.sum(-1), least=1.0)


class AlignmentGIoULoss:
    """`1 - GIoU` of matched boxes, averaged with the alignment as weight; the sum of weights is at least 1.

    Args:
        score_power, overlap_power: see `alignment`.
        eps: added to areas in denominators.
    """

    def __init__(self, score_power: float = 1.0, overlap_power: float = 6.0, eps: float = 0.0):
        self.score_power = score_power
        self.overlap_power = overlap_power
        self.eps = eps

    def __call__(self, comparison: Comparison) -> Mean:
        weight = alignment(comparison, self.score_power, self.overlap_power)
        predicted, target = (box_cxcywh_to_xyxy(boxes) for boxes in (comparison.boxes, comparison.target_boxes))
        return Mean(weight * (1 - generalized_box_iou(predicted, target, self.eps)), weight, least=1.0)
