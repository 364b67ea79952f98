"""Shared parts of heads with anchors: maps with strides, anchors, and the encoding of boxes as offsets from them.

Boxes in this module are xyxy in pixels of the network's input, as the sizes of anchors are.

Legend: B batch, L levels, N anchors of all levels, A anchors of a cell, T objects of an image, C channels.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from ..targets import Targets

# Boxes are at most this many times as large as their anchor, and at least its inverse (Detectron).
LARGEST_CHANGE = math.log(1000 / 16)


@dataclass(frozen=True)
class Anchors:
    """Boxes around the cells of maps, ordered by level, row and cell.

    Attributes:
        boxes: (N, 4) xyxy in pixels.
        sizes: number of anchors of each level.
    """

    boxes: Tensor
    sizes: list[int]

    def centres(self) -> Tensor:
        """Return the centres, (N, 2), x first, in pixels."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    def inside(self, image_size: tuple[int, int]) -> Tensor:
        """Return (N,) bool, True where the centre is inside an image of this (height, width), not in its padding."""
        height, width = image_size
        x, y = self.centres().unbind(-1)
        return (x < width) & (y < height)


@dataclass(frozen=True)
class Pyramid:
    """Feature maps and the size of their cells.

    Attributes:
        maps: L tensors (B, C, h, w), finest first.
        strides: sides of a cell in pixels, one per level.
        image_sizes: B pairs (height, width) in pixels, without padding.
    """

    maps: Sequence[Tensor]
    strides: Sequence[int]
    image_sizes: Sequence[tuple[int, int]]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of boxes: that of the maps, but at least float32."""
        return torch.promote_types(self.maps[0].dtype, torch.float32)

    def anchors(self, scales: Sequence[float], ratios: Sequence[float]) -> Anchors:
        """Create a box for each ratio and scale at the upper left corner of each cell, as in mmdetection.

        Args:
            scales: side of a square anchor in strides.
            ratios: height over width; all anchors of a scale have the same area.
        """
        device = self.maps[0].device
        levels = []
        for feature_map, stride in zip(self.maps, self.strides, strict=True):
            sides = [
                (stride * scale / math.sqrt(ratio), stride * scale * math.sqrt(ratio))
                for ratio in ratios
                for scale in scales
            ]
            half = torch.tensor(sides, dtype=self.dtype).to(device, non_blocking=True) / 2
            y, x = (torch.arange(side, dtype=self.dtype, device=device) * stride for side in feature_map.shape[-2:])
            corners = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)[:, None]
            levels.append(torch.cat([corners - half, corners + half], dim=-1).flatten(0, 1))
        return Anchors(torch.cat(levels), [len(level) for level in levels])

    def objects(self, targets: Targets) -> list[Tensor]:
        """Return the boxes of the objects of each image, (T, 4)."""
        parts = targets.boxes.to(self.dtype).split(targets.sizes)
        return [
            box_cxcywh_to_xyxy(part) * in_pixels(size, part) for part, size in zip(parts, self.image_sizes, strict=True)
        ]

    def normalised(self, boxes: Tensor, image: int) -> Tensor:
        """Convert boxes of an image, (n, 4) xyxy in pixels, to cxcywh in 0..1 of the image."""
        return box_xyxy_to_cxcywh(boxes / in_pixels(self.image_sizes[image], boxes))


class Candidates(NamedTuple):
    """The candidates of an image that a head has assigned to objects or background.

    Attributes:
        boxes: (n, 4) xyxy in pixels, without gradients.
        assigned: (n,) the index of the object, in 0..T-1 of the image, or `BACKGROUND`, or `NEITHER`.
        features: (n, C), the features of the maps there.
    """

    boxes: Tensor
    assigned: Tensor
    features: Tensor


class HeadResult(NamedTuple):
    """The result of a head.

    Attributes:
        losses: maps names to scalar losses.
        candidates: the candidates of each image.
    """

    losses: dict[str, Tensor]
    candidates: list[Candidates]


def first_objects(targets: Targets, device: torch.device) -> Tensor:
    """Return the index of the first object of each image among those of the batch, (B,)."""
    first = list(itertools.accumulate(targets.sizes, initial=0))[:-1]
    return torch.tensor(first).to(device, non_blocking=True)


def in_pixels(image_size: tuple[int, int], like: Tensor) -> Tensor:
    """Return (width, height, width, height) of an image as a tensor, (4,)."""
    height, width = image_size
    return torch.tensor([width, height, width, height], dtype=like.dtype).to(like.device, non_blocking=True)


def per_anchor(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Reshape predictions, maps (B, A * channels, h, w), to (B, N, channels), in float32 at least."""
    flat = [feature_map.unflatten(1, (-1, channels)).permute(0, 3, 4, 1, 2).flatten(1, 3) for feature_map in maps]
    joined = torch.cat(flat, dim=1)
    return joined.to(torch.promote_types(joined.dtype, torch.float32))


def encode_boxes(boxes: Tensor, anchors: Tensor, stds: Sequence[float]) -> Tensor:
    """Encode boxes as offsets from anchors (Girshick et al., "R-CNN", CVPR 2014, appendix C).

    Args:
        boxes: (n, 4) xyxy.
        anchors: (n, 4) xyxy.
        stds: divisors of the offsets of x, y, width and height.

    Returns:
        (n, 4): offsets of the centre in sides of the anchor, and logarithms of the ratios of the sides.
    """
    target, base = box_xyxy_to_cxcywh(boxes), box_xyxy_to_cxcywh(anchors)
    offsets = torch.cat([(target[:, :2] - base[:, :2]) / base[:, 2:], (target[:, 2:] / base[:, 2:]).log()], dim=-1)
    return offsets / offsets.new_tensor(stds)


def decode_boxes(offsets: Tensor, anchors: Tensor, stds: Sequence[float]) -> Tensor:
    """Invert `encode_boxes`; the ratios of the sides are limited to 1000 / 16."""
    base = box_xyxy_to_cxcywh(anchors)
    offsets = offsets * offsets.new_tensor(stds)
    change = offsets[:, 2:].clamp(-LARGEST_CHANGE, LARGEST_CHANGE).exp()
    return box_cxcywh_to_xyxy(torch.cat([base[:, :2] + offsets[:, :2] * base[:, 2:], base[:, 2:] * change], dim=-1))
