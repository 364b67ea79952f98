"""The quality of a matched prediction by its score and box, which quality losses and candidate rankings share."""

from torch import Tensor

from ..structures import box_cxcywh_to_xyxy, box_iou


def overlap_quality(boxes: Tensor, target_boxes: Tensor, eps: float = 0.0) -> Tensor:
    """Compute the IoU of each pair of boxes, without gradients.

    Args:
        boxes: (M, 4) cxcywh in 0..1.
        target_boxes: (M, 4) cxcywh in 0..1.
        eps: added to the union.

    Returns:
        (M,).
    """
    predicted, target = (box_cxcywh_to_xyxy(tensor.detach()) for tensor in (boxes, target_boxes))
    return box_iou(predicted, target, eps)


def alignment_quality(scores: Tensor, overlaps: Tensor, alpha: float) -> Tensor:
    """Compute p^alpha * u^(1 - alpha), at least 0.01, without gradients (Align-DETR, Cai et al., BMVC 2024).

    Args:
        scores: (M,) p, the probability of the object's class.
        overlaps: (M,) u, the IoU of the boxes.
        alpha: exponent of the score, in 0..1.

    Returns:
        (M,).
    """
    return (scores.detach() ** alpha * overlaps ** (1 - alpha)).clamp(min=0.01)
