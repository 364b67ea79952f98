"""Losses of sets of predictions that have been matched with the ground truth.

A loss is a formula: it gives a value for each matched pair, or for each query, and the criterion adds them up for each
set, divides by the number of objects and multiplies by weights.

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
    """What a loss returns whose values are averaged instead of divided by the number of objects.

    Attributes:
        values: (M,) for each matched pair, or (B, R) for each query, weighted already.
        weights: of the same shape, what they were weighted by; the loss of a set is the sum of its values over the sum
            of its weights.
        least: the sum of weights counts as this much at least.
    """

    values: Tensor
    weights: Tensor
    least: float = 0.0


class MatchedLoss(Protocol):
    """The interface of a loss.

    It may have four attributes: `needs`, names of further outputs without which a set of predictions does not have the
    loss; `needs_matched_share`, True where `Comparison.matched_share` must be known; `needs_masks`, True where objects
    must have masks; and `needs_image_sizes`, True where they must know the size of their image.
    """

    def __call__(self, comparison: Comparison) -> Tensor | Mean:
        """(M,), a value for each matched pair, or (B, R), one for each query; neither added up nor weighted.

        The loss of a set is the sum of its values over its number of objects, or of matched pairs (see
        `SetCriterion`), unless a `Mean` is returned.
        """
        ...


class CrossEntropyLoss:
    """Cross-entropy over K classes and a last class "no object" for queries without an object (DETR, eq. 2).

    The mean is over the weights of the queries of this process. mmdetection's has at least the weight 1, and is over
    those of all processes where `SetCriterion.over_processes` says so (there: `sync_cls_avg_factor`).

    Args:
        eos_coef: weight of "no object", which most queries are.
        least: the sum of the weights counts as this much at least.

    Raises:
        ValueError: when one of them is negative.
    """

    def __init__(self, eos_coef: float = 0.1, least: float = 0.0):
        if min(eos_coef, least) < 0:
            raise ValueError(f"CrossEntropyLoss has weights of 0 and more, got eos_coef={eos_coef}, least={least}")
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
        return sigmoid_focal_loss(comparison.logits, comparison.class_targets(), self.alpha, self.gamma).sum(-1)


class VarifocalLoss:
    """Sigmoid cross-entropy with the overlap of the matched boxes as target (Zhang et al., CVPR 2021, eq. 2).

    Positives are weighted by their target. Everything else has the target 0 and is weighted as in the focal loss.
    Neither weights nor targets get gradients.

    Args:
        alpha: weight of negatives, whose target is 0.
        gamma: exponent that fades out easy negatives.
        eps: added to the union that the overlap is divided by.
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

    Unlike in `VarifocalLoss`, positives all have the weight 1, so that matched boxes of little overlap count (eq. 4).
    Everything else has the target 0, and is weighted by a power of its probability. Neither weights nor targets get
    gradients.

    Args:
        gamma: both exponents.
        alpha: weight of negatives.
        eps: added to the union that the overlap is divided by.
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
    Targets get no gradients; the weight p^gamma does, as published.

    Args:
        alpha: how much the score counts in targets, in 0..1.
        gamma: exponent that fades out easy negatives.
        eps: added to the union that the overlap is divided by.
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

    A matched query with overlap u has the target t = u^power, which is multiplied, for each image and set of
    predictions, so that the largest target is 1. With probability p of its object's class it has the loss
    alpha * |t - p|^gamma * (-t log(p) - (1 - t) log(1 - p)); other classes and queries have
    (1 - alpha) * p^gamma * -log(1 - p). Targets get no gradients, weights do.

    Args:
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that fades out what is learned.
        power: exponent of the overlap.
        eps: added to the union that the overlap is divided by.
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

    A class with the probability p and the target u, which is 0 but for the classes of matched queries, is weighted by
    |u - p|^gamma. Targets get no gradients, weights do.

    Args:
        gamma: exponent that fades out what is learned.
        eps: added to the union that the overlap is divided by.
    """

    def __init__(self, gamma: float = 2.0, eps: float = 0.0):
        self.gamma = gamma
        self.eps = eps

    def __call__(self, comparison: Comparison) -> Tensor:
        targets = comparison.class_targets(overlap_quality(comparison.boxes, comparison.target_boxes, self.eps))
        weight = (targets - comparison.logits.sigmoid()).abs() ** self.gamma
        return (weight * F.binary_cross_entropy_with_logits(comparison.logits, targets, reduction="none")).sum(-1)


class BoxL1Loss:
    """L1 distance of matched boxes as cxcywh in 0..1."""

    def __call__(self, comparison: Comparison) -> Tensor:
        return (comparison.boxes - comparison.target_boxes).abs().sum(-1)


class GIoULoss:
    """One less the generalised IoU of matched boxes.

    Args:
        eps: added to areas that are divided by. detrex, DAB-DETR, DN-DETR and DINO have 1e-6; DETR, Deformable DETR,
            Conditional DETR and H-Deformable DETR have none.
        in_pixels: whether boxes are scaled to pixels of their image, whose areas count as `eps` at least, as in
            mmdetection, instead of having it added. Without `eps` the unit makes no difference.

    Raises:
        ValueError: when `eps` is negative.
    """

    def __init__(self, eps: float = 1e-6, in_pixels: bool = False):
        if eps < 0:
            raise ValueError(f"GIoULoss divides by areas, which eps={eps} would make smaller; use 0 or more")
        self.eps = eps
        self.needs_image_sizes = in_pixels

    def __call__(self, comparison: Comparison) -> Tensor:
        predicted = box_cxcywh_to_xyxy(comparison.boxes)
        wanted = box_cxcywh_to_xyxy(comparison.target_boxes)
        if not self.needs_image_sizes:
            return 1 - generalized_box_iou(predicted, wanted, self.eps)
        pixels = pixels_of_images(comparison.target_extra)[comparison.target]
        return 1 - generalized_box_iou(predicted * pixels, wanted * pixels, least_area=self.eps)
