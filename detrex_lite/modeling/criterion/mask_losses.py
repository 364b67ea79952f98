"""Losses of masks at sampled points (Mask2Former, Cheng et al., CVPR 2022, section 3.4) or at all pixels (DETR).

Only masks of matched queries are computed, in chunks, and recomputed in the backward pass; only the values at points
are stored.

Legend: M matched pairs of all sets, P points, C channels, h x w cells.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import masks
from ..targets import MASKS
from .comparison import Comparison
from .losses import sigmoid_focal_loss


class PointMaskLoss:
    """Abstract loss of matched masks at points, most of which are where the predicted mask is least certain.

    Losses with equal arguments share the same points.

    Args:
        num_points: P.
        oversample_ratio, importance_ratio: see `uncertain_points`.

    Attributes:
        needs: sets of predictions without mask embeddings do not have this loss.
        needs_masks: objects must have masks.
    """

    needs = (masks.MASK_EMBEDDING,)
    needs_masks = True
    column: int

    def __init__(self, num_points: int = 12544, oversample_ratio: float = 3.0, importance_ratio: float = 0.75):
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio

    def __call__(self, comparison: Comparison) -> Tensor:
        sampling = (self.num_points, self.oversample_ratio, self.importance_ratio)
        losses = comparison.shared(("point masks", *sampling), lambda: _at_points(comparison, *sampling))
        return losses[:, self.column]


class MaskBCELoss(PointMaskLoss):
    """Binary cross-entropy, averaged over points."""

    column = 0


class MaskDiceLoss(PointMaskLoss):
    """Dice loss over points; see `dice_loss`."""

    column = 1


def _at_points(comparison: Comparison, num_points: int, oversample_ratio: float, importance_ratio: float) -> Tensor:
    """Compute the cross-entropy and dice loss of each matched pair, (M, 2)."""
    features, target_masks = comparison.mask_features, comparison.target_extra[MASKS]
    assert features is not None
    embeddings = comparison.matched(masks.MASK_EMBEDDING)
    if not len(embeddings):  # no values, but zero gradients for the inputs of masks
        return (embeddings @ features.tensor.mean((0, 2, 3)).to(embeddings.dtype))[:, None].expand(-1, 2)
    frame = masks.frame_of(features)
    height, width = features.tensor.shape[-2:]
    part = max(masks.PART // max(height * width, int(num_points * oversample_ratio)), 1)

    def maps(rows: Tensor, cells: Tensor) -> Tensor:
        return (rows @ cells.flatten(1).to(rows.dtype)).unflatten(1, (height, width))

    def compare(rows: Tensor, cells: Tensor, index: Tensor, points: Tensor) -> Tensor:
        logits = masks.sample_maps(maps(rows, cells)[:, None], points)[:, 0]
        labels = masks.sample_masks(target_masks, index, points, frame)
        return torch.stack([masks.binary_cross_entropy(logits, labels), masks.dice_loss(logits, labels)], dim=1)

    order = comparison.image.argsort(stable=True)  # sorted by image
    results = []
    for cells, pairs in zip(features.tensor, order.split(comparison.pairs_per_image()), strict=True):
        for some in pairs.split(part) if len(pairs) else ():
            rows, index = embeddings[some], comparison.target[some]
            with torch.no_grad():
                points = masks.uncertain_points(maps(rows, cells), num_points, oversample_ratio, importance_ratio)
            results.append(masks.recomputed(compare, rows, cells, index, points))
    return torch.cat(results)[order.argsort()]


class WholeMaskLoss:
    """Abstract loss of matched masks over all pixels of the padded images (DETR, section 5).

    Masks are upsampled bilinearly to the size of the images.

    Attributes:
        needs: sets of predictions without masks do not have this loss.
        needs_masks: objects must have masks.
    """

    needs = (masks.MASK_LOGITS,)
    needs_masks = True

    def of_pixels(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Abstract. Compute the loss (n,) of (n, H * W) logits and targets, 0 or 1."""
        raise NotImplementedError(f"{type(self).__name__} must implement of_pixels")

    def __call__(self, comparison: Comparison) -> Tensor:
        target_masks, logits = comparison.target_extra[MASKS], comparison.matched(masks.MASK_LOGITS)
        if not len(logits):
            return logits.sum((1, 2))
        size = target_masks.shape[-2:]

        def compare(part: Tensor, index: Tensor) -> Tensor:
            enlarged = F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0]
            return self.of_pixels(enlarged.flatten(1), target_masks[index].flatten(1).to(part.dtype))

        part = max(masks.PART // (size[0] * size[1]), 1)
        parts = zip(logits.split(part), comparison.target.split(part), strict=True)
        return torch.cat([masks.recomputed(compare, *part) for part in parts])


class WholeMaskFocalLoss(WholeMaskLoss):
    """Sigmoid focal loss, averaged over pixels.

    Args:
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that reduces the weight of easy pixels.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0):
        self.alpha = alpha
        self.gamma = gamma

    def of_pixels(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `WholeMaskLoss.of_pixels`."""
        return sigmoid_focal_loss(logits, targets, self.alpha, self.gamma).mean(1)


class WholeMaskDiceLoss(WholeMaskLoss):
    """Dice loss over pixels; see `dice_loss`."""

    def of_pixels(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `WholeMaskLoss.of_pixels`."""
        return masks.dice_loss(logits, targets)
