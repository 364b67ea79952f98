"""Non-maximum suppression for a batch, with a mask of the kept boxes as the result.

Legend: B batch, N boxes of an image.
"""

import torch
import torchvision
from torch import Tensor


def nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """Apply greedy non-maximum suppression within each image and group.

    The result has a fixed shape, so that the surrounding code does not depend on the number of kept boxes. On a GPU the
    suppression synchronises with the device.

    Args:
        boxes: (B, N, 4) xyxy.
        scores: (B, N); among equal scores the first box wins.
        iou_threshold: the largest IoU between two kept boxes.
        groups: (B, N) integers from 0; boxes of different groups, such as classes or feature levels, do not suppress
            each other. None for one group.

    Returns:
        (B, N) bool, True = kept.
    """
    groups = torch.zeros_like(scores, dtype=torch.int64) if groups is None else groups
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return _nms_in_one_call(boxes, scores, groups, iou_threshold)
    return _nms_per_image(boxes.detach(), scores.detach(), groups, iou_threshold)


# This is a registered operator, so that torch.compile treats it as one node.
@torch.library.custom_op("detrex_lite::nms_mask", mutates_args=())
def _nms_per_image(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for row, *image in zip(
        keep, boxes.double(), scores.double(), groups, strict=True
    ):  # torchvision shifts groups far apart
        row[torchvision.ops.batched_nms(*image, iou_threshold)] = True
    return keep


@_nms_per_image.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def _nms_in_one_call(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Suppress without a loop over images, for graphs with a dynamic batch: groups and images are shifted apart."""
    boxes = boxes.float() - boxes.flatten().amin(0).float()
    side = boxes.flatten().amax(0) + 1
    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand_as(groups)
    shift = side * torch.stack([groups, image, groups, image], dim=-1)
    # Scores are replaced by ranks, because runtimes drop scores that are not above 0 and break ties differently.
    order = scores.argsort(dim=1, descending=True)
    ranks = torch.arange(scores.shape[1], 0, -1, device=scores.device).expand_as(order)
    turn = torch.zeros_like(order).scatter(1, order, ranks).to(boxes.dtype)
    indices = torchvision.ops.nms((boxes + shift).flatten(0, 1), turn.flatten(), iou_threshold)
    keep = torch.zeros_like(scores, dtype=torch.bool).flatten()
    return keep.scatter(0, indices, torch.ones_like(indices, dtype=torch.bool)).view_as(scores)
