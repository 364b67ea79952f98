"""What matching a prediction with an object costs. Costs are objects that a matcher sums.

Legend: B batch, Q queries, K classes, T objects of an image, padded to the batch's largest count.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, generalized_box_iou, pairwise_generalized_box_iou
from ..predictions import LayerOutput
from ..targets import PaddedTargets, pixels_of_images


class MatchingCost(Protocol):
    """The interface of a cost.

    It may have three attributes: `whole_sets`, True where what a query costs depends on the other queries of its set of
    predictions; `needs_masks`, True where objects must have masks; and `needs_image_sizes`, True where they must know
    the size of their image.
    """

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        """Returns (B, Q, T), what each pair of a query and an object of its image costs, already weighted.

        Queries may be those of several decoder layers after each other: what a query costs must not depend on others,
        but for a cost with `whole_sets`, which gets each set by itself.
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


class PositionModulatedCost:
    """The focal cost of probabilities that are lowered where boxes are far off (Stable-DINO, Liu et al., ICCV 2023).

    The probability p of the object's class becomes p * v^beta, where v is the generalised IoU of the boxes, moved to
    0..1. In each image, v is multiplied so that its largest value is 1.

    As in the authors' code, v is looked up by class: all objects of the batch that have a class share the v of the
    last one of them, and the largest value is sought among all objects of the batch, those of other images, too.
    `by_object` gives each object its own v, as the paper's equation reads, and scales by the image's own objects.

    Args:
        weight: what the cost is multiplied by.
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that fades out easy examples.
        beta: exponent of v; 0 for probabilities as they are.
        eps: added to areas that are divided by.
        by_object: whether each object has its own v.
    """

    whole_sets = True

    def __init__(
        self,
        weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        beta: float = 0.5,
        eps: float = 1e-6,
        by_object: bool = False,
    ):
        self.weight = weight
        self.alpha = alpha
        self.gamma = gamma
        self.beta = beta
        self.eps = eps
        self.by_object = by_object

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        probability = _of_labels(predictions.logits, targets.labels).sigmoid()
        if probability.numel():
            probability = probability * self.closeness(predictions.boxes, targets) ** self.beta
        positive = self.alpha * (1 - probability) ** self.gamma * -(probability + 1e-8).log()
        negative = (1 - self.alpha) * probability**self.gamma * -(1 - probability + 1e-8).log()
        return self.weight * (positive - negative)

    def closeness(self, boxes: Tensor, targets: PaddedTargets) -> Tensor:
        """v of each query and object of its image, (B, Q, T) in 0..1; 0 in padding.

        Args:
            boxes: (B, Q, 4) cxcywh in 0..1; Q is not 0.
            targets: T is not 0.
        """
        number = targets.labels.shape[1]
        there = (torch.arange(number) < torch.tensor(targets.sizes)[:, None]).to(boxes.device, non_blocking=True)
        if self.by_object:
            return _with_largest_1(self._moved_giou(boxes, targets.boxes) * there[:, None])
        last = _last_of_class(targets.labels.flatten(), there.flatten())  # (B * T,)
        values = self._moved_giou(boxes, targets.boxes.flatten(0, 1)[last][None])  # (B, Q, B * T)
        values = _with_largest_1(values * there.flatten()).unflatten(2, there.shape)
        return torch.stack([own[:, image] for image, own in enumerate(values)])

    def _moved_giou(self, boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """The generalised IoU of every pair, from -1..1 to 0..1."""
        predicted, wanted = box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target_boxes)
        return ((pairwise_generalized_box_iou(predicted, wanted, self.eps) + 1) / 2).clamp(min=0)


def _last_of_class(labels: Tensor, there: Tensor) -> Tensor:
    """For each object the index of the last one of its class that is there. labels: (T,); there: (T,) bool."""
    same = (labels[:, None] == labels) & there
    return (same * torch.arange(len(labels), device=labels.device)).argmax(1)


def _with_largest_1(values: Tensor) -> Tensor:
    """`values`, (B, Q, T), times what makes the largest of each image 1, if that is more than 1."""
    return values * (1 / (values.amax((1, 2), keepdim=True) + 1e-8)).clamp(min=1)


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
        in_pixels: whether boxes are scaled to pixels of their image, whose areas count as `eps` at least, as in
            mmdetection, instead of having it added. Without `eps` the unit makes no difference.

    Raises:
        ValueError: when `eps` is negative.
    """

    def __init__(self, weight: float = 2.0, eps: float = 1e-6, in_pixels: bool = False):
        if eps < 0:
            raise ValueError(f"GIoUCost divides by areas, which eps={eps} would make smaller; use 0 or more")
        self.weight = weight
        self.eps = eps
        self.needs_image_sizes = in_pixels

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        predicted, wanted = box_cxcywh_to_xyxy(predictions.boxes), box_cxcywh_to_xyxy(targets.boxes)
        if not self.needs_image_sizes:
            return -self.weight * pairwise_generalized_box_iou(predicted, wanted, self.eps)
        pixels = pixels_of_images(targets.extra)[:, None]  # (B, 1, T, 4)
        overlaps = generalized_box_iou(predicted[:, :, None] * pixels, wanted[:, None] * pixels, least_area=self.eps)
        return -self.weight * overlaps
