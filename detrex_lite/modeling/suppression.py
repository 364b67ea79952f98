"""Suppression of duplicate detections, for `Postprocessor.suppression`; detectors trained one-to-many need it.

Legend: B batch, D candidates, R detections.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from ..ops.nms import nms_mask
from ..structures import box_cxcywh_to_xyxy, box_iou

Candidates = tuple[Tensor, Tensor, Tensor]


class Suppression(Protocol):
    """The interface of a suppression."""

    def __call__(self, scores: Tensor, classes: Tensor, boxes: Tensor) -> Candidates:
        """Select detections, and possibly lower their scores.

        Args:
            scores: (B, D), negative for non-detections.
            classes: (B, D).
            boxes: (B, D, 4) cxcywh.

        Returns:
            Scores, classes and boxes of R candidates, best first.
        """
        ...


class NMS:
    """Non-maximum suppression among the candidates of each class.

    Args:
        iou_threshold: the largest IoU of two detections of a class.
        num_detections: largest number of detections per image.
        class_agnostic: suppress candidates of other classes as well.
    """

    def __init__(self, iou_threshold: float = 0.7, num_detections: int = 100, *, class_agnostic: bool = False):
        self.iou_threshold = iou_threshold
        self.num_detections = num_detections
        self.class_agnostic = class_agnostic

    def __call__(self, scores: Tensor, classes: Tensor, boxes: Tensor) -> Candidates:
        """See `Suppression`."""
        groups = None if self.class_agnostic else classes
        kept = nms_mask(box_cxcywh_to_xyxy(boxes), scores, self.iou_threshold, groups)
        scores, chosen = scores.masked_fill(~kept, -1.0).topk(min(self.num_detections, scores.shape[1]), dim=1)
        return scores, classes.gather(1, chosen), boxes.gather(1, chosen[..., None].expand(-1, -1, 4))


class SoftNMS:
    """Soft-NMS: each detection lowers the scores of overlapping candidates of its class (Bodla et al., ICCV 2017).

    Detections are selected one by one, by their current scores, over all classes together. The result equals the best
    detections of a suppression class by class.

    Args:
        iou_threshold: with `sigma=None`, scores of candidates with at least this IoU are multiplied by 1 - IoU.
        num_detections: largest number of detections per image.
        sigma: multiply all scores by exp(-IoU^2 / sigma) instead.
        min_score: detections with lower scores are removed.

    Raises:
        ValueError: when `sigma` is not positive.
    """

    def __init__(
        self,
        iou_threshold: float = 0.3,
        num_detections: int = 100,
        *,
        sigma: float | None = None,
        min_score: float = 1e-3,
    ):
        if sigma is not None and sigma <= 0:
            raise ValueError(f"sigma={sigma} must be positive; None for factors of 1 - IoU")
        self.iou_threshold = iou_threshold
        self.num_detections = num_detections
        self.sigma = sigma
        self.min_score = min_score

    def __call__(self, scores: Tensor, classes: Tensor, boxes: Tensor) -> Candidates:
        """See `Suppression`."""
        corners = box_cxcywh_to_xyxy(boxes)
        chosen, final = [], []
        for _ in range(min(self.num_detections, scores.shape[1])):
            value, best = scores.max(dim=1, keepdim=True)
            chosen.append(best)
            final.append(value)
            overlaps = box_iou(corners.gather(1, best[..., None].expand(-1, -1, 4)), corners)
            factors = self._factors(overlaps).where(classes == classes.gather(1, best), 1.0)
            # Selected candidates get scores below all others.
            scores = (scores * factors).scatter(1, best, -math.inf)
        index, values = torch.cat(chosen, dim=1), torch.cat(final, dim=1)
        values = values.masked_fill(values < self.min_score, -1.0)
        return values, classes.gather(1, index), boxes.gather(1, index[..., None].expand(-1, -1, 4))

    def _factors(self, overlaps: Tensor) -> Tensor:
        if self.sigma is not None:
            return torch.exp(-(overlaps**2) / self.sigma)
        return (1 - overlaps).where(overlaps >= self.iou_threshold, 1.0)
