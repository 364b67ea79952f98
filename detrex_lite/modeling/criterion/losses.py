"""Losses of one set of predictions that has been matched with the ground truth.

Legend: B batch, Q queries, K classes, M matched pairs in the batch.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, generalized_box_iou
from ..predictions import Match, Predictions
from ..targets import Targets


class MatchedLoss(Protocol):
    """The interface of a loss."""

    def __call__(self, predictions: Predictions, match: Match, targets: Targets, num_boxes: Tensor | float) -> Tensor:
        """A scalar, not yet weighted; `num_boxes` is the number of objects per process, at least 1, times the
        `repeats` of the predictions.
        """
        ...


class CrossEntropyLoss:
    """Cross-entropy over K classes and a last class "no object" for queries without an object (DETR, eq. 2).

    Args:
        eos_coef: weight of "no object", which most queries are; the mean is over the weights.
    """

    def __init__(self, eos_coef: float = 0.1):
        self.eos_coef = eos_coef

    def __call__(self, predictions: Predictions, match: Match, targets: Targets, num_boxes: Tensor | float) -> Tensor:
        logits = predictions.logits  # (B, Q, K + 1)
        if not logits.numel():
            return logits.sum()  # the mean over nothing would be NaN
        no_object = logits.shape[-1] - 1
        labels = targets.labels.new_full(logits.shape[:2], no_object)
        labels[match.image, match.query] = targets.labels[match.target]
        weight = logits.new_ones(no_object + 1)
        weight[no_object] = self.eos_coef
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight)


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

    def __call__(self, predictions: Predictions, match: Match, targets: Targets, num_boxes: Tensor | float) -> Tensor:
        wanted = predictions.logits.new_zeros(predictions.logits.shape)
        wanted[match.image, match.query, targets.labels[match.target]] = 1
        return sigmoid_focal_loss(predictions.logits, wanted, self.alpha, self.gamma).sum() / num_boxes


class BoxL1Loss:
    """L1 distance of matched boxes as cxcywh in 0..1, summed, per object."""

    def __call__(self, predictions: Predictions, match: Match, targets: Targets, num_boxes: Tensor | float) -> Tensor:
        predicted = predictions.boxes[match.image, match.query]  # (M, 4)
        return (predicted - targets.boxes[match.target]).abs().sum() / num_boxes


class GIoULoss:
    """One less the generalised IoU of matched boxes, summed, per object.

    Args:
        eps: added to areas that are divided by; the paper's repository has none, detrex this one.
    """

    def __init__(self, eps: float = 1e-6):
        self.eps = eps

    def __call__(self, predictions: Predictions, match: Match, targets: Targets, num_boxes: Tensor | float) -> Tensor:
        predicted = box_cxcywh_to_xyxy(predictions.boxes[match.image, match.query])  # (M, 4)
        wanted = box_cxcywh_to_xyxy(targets.boxes[match.target])
        return (1 - generalized_box_iou(predicted, wanted, self.eps)).sum() / num_boxes
