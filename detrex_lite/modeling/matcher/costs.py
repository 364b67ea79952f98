"""What matching a prediction with an object costs. Costs are objects that a matcher sums.

Legend: B batch, Q queries, K classes, T objects of an image, padded to the batch's largest count.
"""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, pairwise_generalized_box_iou
from ..predictions import LayerOutput
from ..targets import PaddedTargets


class MatchingCost(Protocol):
    """The interface of a cost."""

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        """Returns (B, Q, T), what each pair of a query and an object of its image costs, already weighted.

        Queries may be those of several decoder layers after each other: what a query costs must not depend on others.
        """
        ...


def _of_labels(per_class: Tensor, labels: Tensor) -> Tensor:
    """(B, Q, K) values per class to (B, Q, T) values of each object's class."""
    return per_class.gather(2, labels[:, None, :].expand(-1, per_class.shape[1], -1))


class CrossEntropyCost:
    """Minus the probability of the object's class under softmax: DETR's stand-in for the log-likelihood (eq. 3).

    Args:
        weight: what the cost is multiplied by.
    """

    def __init__(self, weight: float = 1.0):
        self.weight = weight

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        return -self.weight * _of_labels(predictions.logits.softmax(-1), targets.labels)


class FocalCost:
    """How much the sigmoid focal loss (Lin et al., ICCV 2017) of a query changes when it takes the object's class.

    The loss of the class as a positive less its loss as a negative: the sum over a matching is the total focal loss
    up to a constant, so the cheapest matching minimises the loss.

    Args:
        weight: what the cost is multiplied by.
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that fades out easy examples.
    """

    def __init__(self, weight: float = 2.0, alpha: float = 0.25, gamma: float = 2.0):
        self.weight = weight
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        logits = _of_labels(predictions.logits, targets.labels)
        probability = logits.sigmoid()
        positive = self.alpha * (1 - probability) ** self.gamma * -F.logsigmoid(logits)
        negative = (1 - self.alpha) * probability**self.gamma * -F.logsigmoid(-logits)
        return self.weight * (positive - negative)


class BoxL1Cost:
    """The L1 distance of the boxes as cxcywh in 0..1.

    Args:
        weight: what the cost is multiplied by.
    """

    def __init__(self, weight: float = 5.0):
        self.weight = weight

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        # A broadcast sum: torch.cdist(p=1) is many times slower on a GPU.
        return self.weight * (predictions.boxes[:, :, None] - targets.boxes[:, None]).abs().sum(-1)


class GIoUCost:
    """Minus the generalised IoU of the boxes.

    Args:
        weight: what the cost is multiplied by.
        eps: added to areas that are divided by. detrex, DAB-DETR, DN-DETR and DINO have 1e-6; DETR, Deformable DETR,
            Conditional DETR and H-Deformable DETR have none.
    """

    def __init__(self, weight: float = 2.0, eps: float = 1e-6):
        self.weight = weight
        self.eps = eps

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        predicted, wanted = box_cxcywh_to_xyxy(predictions.boxes), box_cxcywh_to_xyxy(targets.boxes)
        return -self.weight * pairwise_generalized_box_iou(predicted, wanted, self.eps)
