"""Small pyramids and objects, in float64."""

import torch

from detrex_lite.modeling import Targets
from detrex_lite.modeling.collaborative import Pyramid

SIZES = [(50, 80), (64, 96)]  # of images in pixels; the first is padded
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


def iou(one, other):
    """Of two boxes as lists of four numbers."""
    width = max(min(one[2], other[2]) - max(one[0], other[0]), 0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (area - width * height)


def giou(one, other):
    """Likewise."""
    width = max(one[2], other[2]) - min(one[0], other[0])
    height = max(one[3], other[3]) - min(one[1], other[1])
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    overlap = iou(one, other)
    union = area / (1 + overlap)
    return overlap - (width * height - union) / (width * height)


def pixels(targets, image):
    """The objects of an image, lists of four numbers."""
    first = sum(targets.sizes[:image])
    height, width = SIZES[image]
    found = []
    for x, y, w, h in targets.boxes[first : first + targets.sizes[image]].tolist():
        found.append([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height])
    return found
