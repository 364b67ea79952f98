"""Losses of sets of predictions that have been matched with the ground truth.

Legend: S sets, B batch, R queries of all sets of an image, M matched pairs of all sets, K classes.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, generalized_box_iou
from .comparison import Comparison


class MatchedLoss(Protocol):
    """The interface of a loss."""

    def __call__(self, comparison: Comparison) -> Tensor:
        """(S,), the loss of each set, not yet weighted."""
        ...


class CrossEntropyLoss:
    """Cross-entropy over K classes and a last class "no object" for queries without an object (DETR, eq. 2).

    Args:
        eos_coef: weight of "no object", which most queries are; the mean is over the weights.
    """

    def __init__(self, eos_coef: float = 0.1):
        self.eos_coef = eos_coef

    def __call__(self, comparison: Comparison) -> Tensor:
        no_object = comparison.logits.shape[-1] - 1
        labels = comparison.labels.new_full(comparison.logits.shape[:2], no_object)
        labels[comparison.image, comparison.query] = comparison.labels
        weight = comparison.logits.new_ones(no_object + 1)
        weight[no_object] = self.eos_coef
        loss = F.cross_entropy(comparison.logits.flatten(0, 1), labels.flatten(), weight, reduction="none")
        # Without queries the loss is 0 / tiny = 0, where 0 / 0 would be NaN.
        total = comparison.sum_of_queries(weight[labels]).clamp(min=torch.finfo(weight.dtype).tiny)
        return comparison.sum_of_queries(loss.view_as(labels)) / total


def sigmoid_focal_loss(logits: Tensor, wanted: Tensor, alpha: float, gamma: float) -> Tensor:
    """The elementwise focal loss of Lin et al., ICCV 2017, eq. 5.

    Args:
        logits: any shape.
        wanted: the same shape, 0 or 1 (or between).
        alpha: weight of positives, negatives have 1 - alpha; below 0 for no weighting.
        gamma: exponent that fades out easy examples.
    """
    probability = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    loss = loss * (1 - (probability * wanted + (1 - probability) * (1 - wanted))) ** gamma
    return loss * (alpha * wanted + (1 - alpha) * (1 - wanted)) if alpha >= 0 else loss


class FocalLoss:
    """Sigmoid focal loss over K classes; a query without an object has no class (Deformable DETR).

    Args:
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that fades out easy examples.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0):
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, comparison: Comparison) -> Tensor:
        wanted = torch.zeros_like(comparison.logits)
        wanted[comparison.image, comparison.query, comparison.labels] = 1
        loss = sigmoid_focal_loss(comparison.logits, wanted, self.alpha, self.gamma)
        return comparison.sum_of_queries(loss.sum(-1)) / comparison.num_boxes


class BoxL1Loss:
    """L1 distance of matched boxes as cxcywh in 0..1, summed, per object."""

    def __call__(self, comparison: Comparison) -> Tensor:
        distance = (comparison.boxes - comparison.target_boxes).abs().sum(-1)
        return comparison.sum_of_matched(distance) / comparison.num_boxes


class GIoULoss:
    """One less the generalised IoU of matched boxes, summed, per object.

    Args:
        eps: added to areas that are divided by; the paper's repository has none, detrex this one.
    """

    def __init__(self, eps: float = 1e-6):
        self.eps = eps

    def __call__(self, comparison: Comparison) -> Tensor:
        predicted = box_cxcywh_to_xyxy(comparison.boxes)
        wanted = box_cxcywh_to_xyxy(comparison.target_boxes)
        giou = generalized_box_iou(predicted, wanted, self.eps)
        return comparison.sum_of_matched(1 - giou) / comparison.num_boxes
