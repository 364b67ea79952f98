"""Small feature pyramids and objects in float64."""

import torch

from detrex_lite.modeling import Targets
from detrex_lite.modeling.collaborative import Pyramid

SIZES = [(50, 80), (64, 96)]  # image sizes in pixels; the first image is padded
STRIDES = [8, 16, 32]


def make_pyramid(channels=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(2, channels, 64 // stride, 96 // stride, generator=generator, dtype=torch.float64)
        for stride in STRIDES
    ]
    return Pyramid(maps, STRIDES, SIZES)


def make_targets(sizes=(3, 2), seed=1, num_classes=4):
    generator = torch.Generator().manual_seed(seed)
    number = sum(sizes)
    sides = 0.15 + 0.5 * torch.rand(number, 2, generator=generator, dtype=torch.float64)
    centres = sides / 2 + (1 - sides) * torch.rand(number, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (number,), generator=generator)
    return Targets(labels, torch.cat([centres, sides], dim=1), list(sizes))


def iou(a, b):
    """IoU of two boxes, as lists of four numbers."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area - width * height)


def giou(a, b):
    """Generalised IoU of two boxes, as lists of four numbers."""
    width = max(a[2], b[2]) - min(a[0], b[0])
    height = max(a[3], b[3]) - min(a[1], b[1])
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    overlap = iou(a, b)
    union = area / (1 + overlap)
    return overlap - (width * height - union) / (width * height)


def pixels(targets, image):
    """The object boxes of an image in pixels (XYXY), as lists of four numbers."""
    first = sum(targets.sizes[:image])
    height, width = SIZES[image]
    boxes = []
    for x, y, w, h in targets.boxes[first : first + targets.sizes[image]].tolist():
        boxes.append([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height])
    return boxes
