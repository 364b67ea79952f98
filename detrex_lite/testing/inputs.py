"""Inputs of detectors, in detectron2's format."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..structures import Boxes, Instances

NUM_CLASSES = 5
NUM_QUERIES = 7


def make_input(
    height: int, width: int, boxes: Sequence[Sequence[float]] | Tensor, classes: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """Create a random image with objects, whose masks are the ellipses in their boxes.

    Args:
        height, width: size of the image in pixels; the frame of detections has twice that size.
        boxes: T absolute xyxy boxes.
        classes: T class indices.
        seed: seed of the pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor(classes, dtype=torch.int64)
    instances = Instances(
        (height, width), gt_boxes=Boxes(corners), gt_classes=labels, gt_masks=ellipses(corners, (height, width))
    )
    return {"image": image, "height": 2 * height, "width": 2 * width, "instances": instances}


def ellipses(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Create masks (T, height, width) of the ellipses in boxes (T, 4), absolute xyxy: pixels with centres inside."""
    rows, columns = (torch.arange(side, dtype=boxes.dtype) + 0.5 for side in size)
    x0, y0, x1, y1 = (edge[:, None, None] for edge in boxes.unbind(1))
    across, down = 2 * (columns - x0) / (x1 - x0) - 1, 2 * (rows[:, None] - y0) / (y1 - y0) - 1
    return across**2 + down**2 <= 1


def make_batch() -> list[dict[str, Any]]:
    """Create images of three sizes, one without objects, with labels below `NUM_CLASSES`."""
    return [
        make_input(64, 96, [[4.0, 8, 40, 50], [50, 10, 90, 60]], [1, 4], seed=1),
        make_input(80, 56, [], [], seed=2),
        make_input(48, 64, [[10.0, 10, 20, 30]], [0], seed=3),
    ]
