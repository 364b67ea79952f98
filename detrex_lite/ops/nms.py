"""Non-maximum suppression for a batch, as a mask of what is left.

Legend: B batch, N boxes of an image.
"""

import torch
import torchvision
from torch import Tensor


def nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """Which boxes are left when each one that is left removes those of lower score that overlap it by more.

    The result has a fixed shape, so that nothing around it depends on how many boxes are left. On a GPU the suppression
    itself waits for the device.

    Args:
        boxes: (B, N, 4) xyxy.
        scores: (B, N); of equal ones the first is taken first.
        iou_threshold: the largest IoU that two boxes may both be left with.
        groups: (B, N) numbers from 0; boxes of different groups, such as classes or feature levels, leave each other
            alone. None for one group.

    Returns:
        (B, N) bool, True = left.
    """
    groups = torch.zeros_like(scores, dtype=torch.int64) if groups is None else groups
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return _in_one_call(boxes, scores, groups, iou_threshold)
    return _of_each_image(boxes.detach(), scores.detach(), groups, iou_threshold)


# A registered operator, so that torch.compile takes it as one node.
@torch.library.custom_op("detrex_lite::nms_mask", mutates_args=())
def _of_each_image(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    left = torch.zeros_like(scores, dtype=torch.bool)
    for row, *image in zip(left, boxes.double(), scores.double(), groups, strict=True):  # groups may be moved far apart
        row[torchvision.ops.batched_nms(*image, iou_threshold)] = True
    return left


@_of_each_image.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def _in_one_call(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """The same without a loop over images, for graphs that take any number of them: groups and images lie apart."""
    boxes = boxes.float() - boxes.flatten().amin(0).float()
    side = boxes.flatten().amax(0) + 1
    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand_as(groups)
    shift = side * torch.stack([groups, image, groups, image], dim=-1)
    # Places in the order of score, from the worst: runtimes drop scores that are not above 0, and break ties otherwise.
    order = scores.argsort(dim=1, descending=True)
    places = torch.arange(scores.shape[1], 0, -1, device=scores.device).expand_as(order)
    turn = torch.zeros_like(order).scatter(1, order, places).to(boxes.dtype)
    indices = torchvision.ops.nms((boxes + shift).flatten(0, 1), turn.flatten(), iou_threshold)
    left = torch.zeros_like(scores, dtype=torch.bool).flatten()
    return left.scatter(0, indices, torch.ones_like(indices, dtype=torch.bool)).view_as(scores)
