"""Costs of matching masks at sampled points (Mask2Former, Cheng et al., CVPR 2022, section 3.4).

Legend: B batch, Q queries, T objects of an image, padded to the largest count in the batch, P points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import masks
from ..predictions import LayerOutput
from ..targets import MASKS, PaddedTargets


class MaskCost:
    """Binary cross-entropy and dice loss of a query's mask and an object's, at points shared by all masks of an image.

    For sets of predictions without masks the cost is zero.

    Args:
        weight: weight of the cross-entropy, which is averaged over points.
        dice_weight: weight of the dice loss.
        num_points: P.

    Attributes:
        needs_masks: objects must have masks.
    """

    needs_masks = True

    def __init__(self, weight: float = 5.0, dice_weight: float = 5.0, num_points: int = 12544):
        self.weight = weight
        self.dice_weight = dice_weight
        self.num_points = num_points

    def __call__(self, predictions: LayerOutput, targets: PaddedTargets) -> Tensor:
        if masks.MASK_EMBEDDING not in predictions.extra:
            return predictions.boxes.new_zeros(*predictions.boxes.shape[:2], targets.labels.shape[1])
        features, packed = masks.features_of(predictions), targets.packed
        embeddings = predictions.extra[masks.MASK_EMBEDDING]
        points = masks.draw_points(len(embeddings), self.num_points, 2, like=embeddings)
        sampled = masks.sample_maps(features.tensor.to(embeddings.dtype), points)  # (B, C, P)
        images = torch.tensor([image for image, size in enumerate(packed.sizes) for _ in range(size)])
        images = images.to(torch.int64).to(points.device, non_blocking=True)
        objects = torch.arange(len(packed), device=points.device)
        labels = masks.sample_masks(packed.extra[MASKS], objects, points[images], masks.frame_of(features))
        target_labels = packed.pad(labels.to(embeddings.dtype)).mT  # (B, P, T)
        part = max(masks.PART // max(len(embeddings) * self.num_points, 1), 1)
        return torch.cat(
            [self._of_some(chunk @ sampled, target_labels) for chunk in embeddings.split(part, dim=1)], dim=1
        )

    def _of_some(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits: (B, q, P), targets: (B, P, T). Returns (B, q, T)."""
        # The cross-entropy is softplus(x) for the target 0, and softplus(x) - x for 1.
        cross_entropy = (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets) / self.num_points
        probability = logits.sigmoid()
        sums = probability.sum(-1, keepdim=True) + targets.sum(1, keepdim=True)
        dice = 1 - (2 * (probability @ targets) + 1) / (sums + 1)
        return self.weight * cross_entropy + self.dice_weight * dice
