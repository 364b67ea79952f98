"""Losses of sets of predictions that have been matched with the ground truth.

A loss returns a value for each matched pair or for each query. The criterion sums these values for each set, divides by
the number of objects and multiplies by weights.

Legend: B batch, R queries of all sets of an image, M matched pairs of all sets, K classes.
"""

from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, generalized_box_iou
from ..quality import alignment_quality, overlap_quality
from ..targets import pixels_of_images
from .comparison import Comparison


class Mean(NamedTuple):
    """The result of a loss whose values are averaged instead of divided by the number of objects.

    Attributes:
        values: (M,) for each matched pair, or (B, R) for each query, already weighted.
        weights: the weights of the values, of the same shape; the loss of a set is the sum of its values over the sum
            of its weights.
        least: lower bound of the sum of weights.
    """

    values: Tensor
    weights: Tensor
    least: float = 0.0


class MatchedLoss(Protocol):
    """The interface of a loss.

    It may have four attributes: `needs`, names of further outputs without which a set of predictions does not have the
    loss; `needs_matched_share`, True if it uses `Comparison.matched_share`; `needs_masks`, True if it needs the masks
    of objects; and `needs_image_sizes`, True if it needs the image sizes of objects.
    """

    def __call__(self, comparison: Comparison) -> Tensor | Mean:
        """Return a value for each matched pair, (M,), or for each query, (B, R), neither summed nor weighted.

        The loss of a set is the sum of its values divided by its number of objects or of matched pairs (see
        `SetCriterion`), unless a `Mean` is returned.
        """
        ...


class CrossEntropyLoss:
    """Cross-entropy over K classes and "no object" as the last class, for queries without an object (DETR, eq. 2).

    The loss is the weighted mean over the queries of this process. In mmdetection the sum of weights is at least 1, and
    it is averaged over processes if `SetCriterion.over_processes` says so (there: `sync_cls_avg_factor`).

    Args:
        eos_coef: weight of "no object", the class of most queries.
        least: lower bound of the sum of weights.

    Raises:
        ValueError: when an argument is negative.
    """

    def __init__(self, eos_coef: float = 0.1, least: float = 0.0):
        if min(eos_coef, least) < 0:
            raise ValueError(f"CrossEntropyLoss needs non-negative weights, got eos_coef={eos_coef}, least={least}")
        self.eos_coef = eos_coef
        self.least = least

    def __call__(self, comparison: Comparison) -> Mean:
        no_object = comparison.logits.shape[-1] - 1
        labels = comparison.labels.new_full(comparison.logits.shape[:2], no_object)
        labels[comparison.image, comparison.query] = comparison.labels
        weight = comparison.logits.new_ones(no_object + 1)
        weight[no_object] = self.eos_coef
        loss = F.cross_entropy(comparison.logits.flatten(0, 1), labels.flatten(), weight, reduction="none")
        return Mean(loss.view_as(labels), weight[labels], self.least)


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Compute the elementwise focal loss of Lin et al., ICCV 2017, eq. 5.

    Args:
        logits: any shape.
        targets: the same shape, 0 or 1 (or between).
        alpha: weight of positives; negatives have 1 - alpha. Below 0 for no weighting.
        gamma: exponent that reduces the weight of easy examples.
    """
    probability = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = loss * (1 - (probability * targets + (1 - probability) * (1 - targets))) ** gamma
    return loss * (alpha * targets + (1 - alpha) * (1 - targets)) if alpha >= 0 else loss


class FocalLoss:
    """Sigmoid focal loss over K classes; a query without an object has no class (Deformable DETR).

    Args:
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that reduces the weight of easy examples.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0):
        self.alpha = alpha
        self.gamma = gamma

    def __call__(self, comparison: Comparison) -> Tensor:
        return sigmoid_focal_loss(comparison.logits, comparison.class_targets(), self.alpha, self.gamma).sum(-1)


class VarifocalLoss:
    """Sigmoid cross-entropy with the overlap of the matched boxes as target (Zhang et al., CVPR 2021, eq. 2).

    Positives are weighted by their target. All other targets are 0 and weighted as in the focal loss. Neither weights
    nor targets have gradients.

    Args:
        alpha: weight of negatives, whose target is 0.
        gamma: exponent that reduces the weight of easy negatives.
        eps: added to the union in the denominator of the overlap.
    """

    def __init__(self, alpha: float = 0.75, gamma: float = 2.0, eps: float = 0.0):
        self.alpha = alpha
        self.gamma = gamma
        self.eps = eps

    def __call__(self, comparison: Comparison) -> Tensor:
        targets = comparison.class_targets(overlap_quality(comparison.boxes, comparison.target_boxes, self.eps))
        negatives = 1 - comparison.class_targets()
        weight = self.alpha * comparison.logits.detach().sigmoid() ** self.gamma * negatives + targets
        return F.binary_cross_entropy_with_logits(comparison.logits, targets, weight, reduction="none").sum(-1)


class MatchabilityAwareLoss:
    """Sigmoid cross-entropy with a power of the overlap of the matched boxes as target (DEIM, Huang et al., CVPR 2025).

    Unlike in `VarifocalLoss`, all positives have weight 1, so that matched boxes with little overlap count fully
    (eq. 4). All other targets are 0 and weighted by a power of the probability. Neither weights nor targets have
    gradients.

    Args:
        gamma: exponent of both the targets and the weights.
        alpha: weight of negatives.
        eps: added to the union in the denominator of the overlap.
    """

    def __init__(self, gamma: float = 1.5, alpha: float = 1.0, eps: float = 0.0):
        self.gamma = gamma
        self.alpha = alpha
        self.eps = eps

    def __call__(self, comparison: Comparison) -> Tensor:
        overlaps = overlap_quality(comparison.boxes, comparison.target_boxes, self.eps)
        targets = comparison.class_targets(overlaps**self.gamma)
        positives = comparison.class_targets()
        weight = self.alpha * comparison.logits.detach().sigmoid() ** self.gamma * (1 - positives) + positives
        return F.binary_cross_entropy_with_logits(comparison.logits, targets, weight, reduction="none").sum(-1)


class IoUAwareBCELoss:
    """Sigmoid cross-entropy whose targets combine score and overlap (Align-DETR, Cai et al., BMVC 2024; LW-DETR).

    A matched query with probability p of its object's class and overlap u has the target t = p^alpha * u^(1 - alpha),
    at least 0.01, and the loss -t log(p) - (1 - t) log(1 - p); other classes and queries have -p^gamma log(1 - p).
    Targets have no gradients; the weight p^gamma has, as published.

    Args:
        alpha: exponent of the score in targets, in 0..1.
        gamma: exponent that reduces the weight of easy negatives.
        eps: added to the union in the denominator of the overlap.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, eps: float = 0.0):
        self.alpha = alpha
        self.gamma = gamma
        self.eps = eps

    def __call__(self, comparison: Comparison) -> Tensor:
        overlaps = overlap_quality(comparison.boxes, comparison.target_boxes, self.eps)
        scores = comparison.logits[comparison.image, comparison.query, comparison.labels].sigmoid()
        targets = comparison.class_targets(alignment_quality(scores, overlaps, self.alpha))
        positives = comparison.class_targets()
        weights = positives - targets + (1 - positives) * comparison.logits.sigmoid() ** self.gamma
        loss = targets * F.logsigmoid(comparison.logits) + weights * F.logsigmoid(-comparison.logits)
        return -loss.sum(-1)


class PositionSupervisedLoss:
    """Focal loss whose targets are overlaps alone, not scores (Stable-DINO, Liu et al., ICCV 2023).

    A matched query with overlap u has the target t = u^power, scaled so that the largest target of each image and set
    of predictions is 1. With the probability p of the object's class, its loss is
    alpha * |t - p|^gamma * (-t log(p) - (1 - t) log(1 - p)); other classes and queries have the loss
    (1 - alpha) * p^gamma * -log(1 - p). Targets have no gradients; weights have.

    Args:
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that reduces the weight of easy examples.
        power: exponent of the overlap.
        eps: added to the union in the denominator of the overlap.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, power: float = 2.0, eps: float = 1e-6):
        self.alpha = alpha
        self.gamma = gamma
        self.power = power
        self.eps = eps

    def __call__(self, comparison: Comparison) -> Tensor:
        quality = overlap_quality(comparison.boxes, comparison.target_boxes, self.eps) ** self.power
        quality = quality * (1 / (comparison.largest(quality) + 1e-8)).clamp(min=1)
        targets, positives = comparison.class_targets(quality), comparison.class_targets()
        probability = comparison.logits.sigmoid()
        minus_log_of_rest = -((-comparison.logits).sigmoid() + 1e-8).log()
        entropy = (1 - targets) * minus_log_of_rest - targets * F.logsigmoid(comparison.logits)
        positive = self.alpha * (targets - probability).abs() ** self.gamma * entropy
        negative = (1 - self.alpha) * probability**self.gamma * minus_log_of_rest
        return (positives * positive + (1 - positives) * negative).sum(-1)


class QualityFocalLoss:
    """Sigmoid cross-entropy with the overlap of the matched boxes as target (Li et al., NeurIPS 2020, eq. 2).

    For a class with the probability p and the target u, which is 0 except for the classes of matched queries, the
    weight is |u - p|^gamma. Targets have no gradients; weights have.

    Args:
        gamma: exponent that reduces the weight of easy examples.
        eps: added to the union in the denominator of the overlap.
    """

    def __init__(self, gamma: float = 2.0, eps: float = 0.0):
        self.gamma = gamma
        self.eps = eps

    def __call__(self, comparison: Comparison) -> Tensor:
        targets = comparison.class_targets(overlap_quality(comparison.boxes, comparison.target_boxes, self.eps))
        weight = (targets - comparison.logits.sigmoid()).abs() ** self.gamma
        return (weight * F.binary_cross_entropy_with_logits(comparison.logits, targets, reduction="none")).sum(-1)


class BoxL1Loss:
    """L1 distance of matched boxes, cxcywh in 0..1."""

    def __call__(self, comparison: Comparison) -> Tensor:
        return (comparison.boxes - comparison.target_boxes).abs().sum(-1)


class GIoULoss:
    """`1 - GIoU` of matched boxes.

    Args:
        eps: added to areas in denominators. detrex, DAB-DETR, DN-DETR and DINO use 1e-6; DETR, Deformable DETR,
            Conditional DETR and H-Deformable DETR use 0.
        in_pixels: whether boxes are scaled to pixels of their image and `eps` is a lower bound of areas, as in
            mmdetection, instead of being added. With `eps` = 0 both are the same.

    Raises:
        ValueError: when `eps` is negative.
    """

    def __init__(self, eps: float = 1e-6, in_pixels: bool = False):
        if eps < 0:
            raise ValueError(f"GIoULoss adds eps={eps} to areas: it must not be negative")
        self.eps = eps
        self.needs_image_sizes = in_pixels

    def __call__(self, comparison: Comparison) -> Tensor:
        predicted = box_cxcywh_to_xyxy(comparison.boxes)
        target = box_cxcywh_to_xyxy(comparison.target_boxes)
        if not self.needs_image_sizes:
            return 1 - generalized_box_iou(predicted, target, self.eps)
        pixels = pixels_of_images(comparison.target_extra)[comparison.target]
        return 1 - generalized_box_iou(predicted * pixels, target * pixels, least_area=self.eps)
