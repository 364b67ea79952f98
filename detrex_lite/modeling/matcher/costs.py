"""Costs of matching a prediction with an object, which a matcher sums.

Legend: B batch, Q queries, K classes, T objects of an image, padded to the largest count in the batch.
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

    It may have three attributes: `whole_sets`, True if the cost of a query depends on the other queries of its set of
    predictions; `needs_masks`, True if it needs the masks of objects; and `needs_image_sizes`, True if it needs the
    image sizes of objects.
    """

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        """Compute the weighted cost of each pair of a query and an object of its image, (B, Q, T).

        The queries of several decoder layers may be concatenated, so the cost of a query must not depend on other
        queries, except for a cost with `whole_sets`, which gets each set separately.
        """
        ...


def _of_labels(per_class: Tensor, labels: Tensor) -> Tensor:
    """Gather (B, Q, K) values per class for each object: (B, Q, T)."""
    return per_class.gather(2, labels[:, None, :].expand(-1, per_class.shape[1], -1))


class CrossEntropyCost:
    """Negative probability of the object's class under softmax, DETR's replacement for the log-likelihood (eq. 3).

    Args:
        weight: factor of the cost.
    """

    def __init__(self, weight: float = 1.0):
        self.weight = weight

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        return -self.weight * _of_labels(predictions.logits.softmax(-1), targets.labels)


class FocalCost:
    """The change of a query's sigmoid focal loss (Lin et al., ICCV 2017) when it is assigned the object's class.

    The cost is the loss of the class as a positive minus its loss as a negative. The sum over a matching is the total
    focal loss up to a constant, so the cheapest matching minimises the loss.

    Args:
        weight: factor of the cost.
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that reduces the weight of easy examples.
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
    """The focal cost of probabilities that decrease with the distance of boxes (Stable-DINO, Liu et al., ICCV 2023).

    The probability p of the object's class becomes p * v^beta, where v is the generalised IoU of the boxes, shifted to
    0..1, and scaled in each image so that its largest value is 1.

    As in the authors' code, v is looked up by class: all objects of a class in the batch share the v of the last one,
    and the largest value is taken over all objects of the batch, including those of other images. With `by_object`,
    each object has its own v, as in the paper's equation, scaled by the objects of its image.

    Args:
        weight: factor of the cost.
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that reduces the weight of easy examples.
        beta: exponent of v; 0 for unmodified probabilities.
        eps: added to areas in denominators.
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
        """Compute v of each query and object of its image, (B, Q, T) in 0..1; 0 in padding.

        Args:
            boxes: (B, Q, 4) cxcywh in 0..1; Q is not 0.
            targets: T is not 0.
        """
        number = targets.labels.shape[1]
        is_object = (torch.arange(number) < torch.tensor(targets.sizes)[:, None]).to(boxes.device, non_blocking=True)
        if self.by_object:
            return _scale_to_maximum_1(self._shifted_giou(boxes, targets.boxes) * is_object[:, None])
        last = _last_of_class(targets.labels.flatten(), is_object.flatten())  # (B * T,)
        values = self._shifted_giou(boxes, targets.boxes.flatten(0, 1)[last][None])  # (B, Q, B * T)
        values = _scale_to_maximum_1(values * is_object.flatten()).unflatten(2, is_object.shape)
        return torch.stack([image_values[:, image] for image, image_values in enumerate(values)])

    def _shifted_giou(self, boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Compute the generalised IoU of every pair, shifted from -1..1 to 0..1."""
        predicted, target = box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target_boxes)
        return ((pairwise_generalized_box_iou(predicted, target, self.eps) + 1) / 2).clamp(min=0)


def _last_of_class(labels: Tensor, is_object: Tensor) -> Tensor:
    """Return for each object the index of the last object of its class. labels: (T,); is_object: (T,) bool."""
    same_class = (labels[:, None] == labels) & is_object
    return (same_class * torch.arange(len(labels), device=labels.device)).argmax(1)


def _scale_to_maximum_1(values: Tensor) -> Tensor:
    """Scale `values`, (B, Q, T), so that the largest value of each image is 1, unless it is smaller than 1."""
    return values * (1 / (values.amax((1, 2), keepdim=True) + 1e-8)).clamp(min=1)


class BoxL1Cost:
    """L1 distance of the boxes, cxcywh in 0..1.

    Args:
        weight: factor of the cost.
    """

    def __init__(self, weight: float = 5.0):
        self.weight = weight

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        # A broadcast sum is used because torch.cdist(p=1) is many times slower on a GPU.
        return self.weight * (predictions.boxes[:, :, None] - targets.boxes[:, None]).abs().sum(-1)


class GIoUCost:
    """Negative generalised IoU of the boxes.

    Args:
        weight: factor of the cost.
        eps: added to areas in denominators. detrex, DAB-DETR, DN-DETR and DINO use 1e-6; DETR, Deformable DETR,
            Conditional DETR and H-Deformable DETR use 0.
        in_pixels: whether boxes are scaled to pixels of their image and `eps` is a lower bound of areas, as in
            mmdetection, instead of being added. With `eps` = 0 both are the same.

    Raises:
        ValueError: when `eps` is negative.
    """

    def __init__(self, weight: float = 2.0, eps: float = 1e-6, in_pixels: bool = False):
        if eps < 0:
            raise ValueError(f"GIoUCost adds eps={eps} to areas: it must not be negative")
        self.weight = weight
        self.eps = eps
        self.needs_image_sizes = in_pixels

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        predicted, target = box_cxcywh_to_xyxy(predictions.boxes), box_cxcywh_to_xyxy(targets.boxes)
        if not self.needs_image_sizes:
            return -self.weight * pairwise_generalized_box_iou(predicted, target, self.eps)
        pixels = pixels_of_images(targets.extra)[:, None]  # (B, 1, T, 4)
        overlaps = generalized_box_iou(predicted[:, :, None] * pixels, target[:, None] * pixels, least_area=self.eps)
        return -self.weight * overlaps
