"""Merges the detections of several views of an image: tiles, mirrored images and scaled images.

Views overlap, so that an object may be detected in several of them, or may be cut off by the border of a tile. Rules:

1. Two detections of different views are the same object if they have the same class and agree in the area that both
   views show: their boxes, clipped to that area, have an intersection over union of at least `iou_threshold`.
2. Pairs are joined to groups in descending order of this agreement. A group has at most one detection of each view,
   because a detector finds each object of an image once.
3. Each side of a group's box is computed from the members in which this side is not cut off, that is, does not lie on a
   border of the view inside the image. With the fusion "nms" it is the side of the member with the highest score; with
   "weighted" it is the mean of all, weighted by scores. If the side is cut off in all members, the outermost is used.
4. With "nms", the score is the highest score of the members. With "weighted", it is the sum of the members' scores,
   divided by the number of views that show the whole box or by the number of members, whichever is larger: an object
   that is missed in some views is less certain.
5. A group is left out as a part of another object if each of its members is cut off somewhere, and at least the
   fraction `CONTAINED` of its area lies inside the box of a group of the same class that has a whole member.
6. The mask is that of the whole member with the highest score; if all members are cut off, it is their union.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

FUSIONS = ("nms", "weighted")

CONTAINED = 0.7
"""The smallest fraction of a part's area that lies inside the object that it belongs to."""


@dataclass(frozen=True)
class ViewDetections:
    """The detections in one view of an image.

    Attributes:
        frame: x0, y0, x1, y1 of the view in pixels of the image.
        boxes: (n, 4) xyxy in pixels of the image.
        scores: (n,).
        classes: (n,) indices.
        masks: (n, height, width) bool, with the size of the frame; None for a model without masks.
    """

    frame: tuple[int, int, int, int]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Merged:
    """The objects of an image, in descending order of scores.

    Attributes:
        boxes: (n, 4) xyxy in pixels of the image.
        scores: (n,).
        classes: (n,) indices.
        masks: (n, height, width) bool; None when no view has masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None


def merge_views(
    views: Sequence[ViewDetections],
    image_size: tuple[int, int],
    *,
    fusion: str = "nms",
    iou_threshold: float = 0.5,
    border: float = 4.0,
    thresholds: np.ndarray | None = None,
) -> Merged:
    """Merge the detections of views, so that each object occurs once; see the top of this module for the rules.

    Args:
        views: the views of one image.
        image_size: (height, width) of the image in pixels.
        fusion: "nms" or "weighted".
        iou_threshold: the threshold of rule 1, above 0 and at most 1.
        border: sides within this many pixels of the border of their view count as cut off.
        thresholds: (K,) thresholds of the classes; objects with lower scores are left out. None keeps all objects.
    """
    check_fusion(fusion, iou_threshold)
    detections = _AllDetections.of(views, image_size, border)
    boxes, scores = [], []
    groups = detections.groups(iou_threshold)
    for group in groups:
        boxes.append(detections.box(group, fusion))
        scores.append(detections.score(group, fusion, boxes[-1]))
    merged_boxes = np.array(boxes, np.float32).reshape(-1, 4)
    merged_scores = np.array(scores, np.float32)
    classes = np.array([detections.classes[group[0]] for group in groups], np.int64)
    chosen = detections.not_parts(groups, merged_boxes, classes)
    if thresholds is not None:
        chosen = chosen[merged_scores[chosen] >= thresholds.astype(np.float32)[classes[chosen]]]
    chosen = chosen[np.argsort(-merged_scores[chosen], kind="stable")]
    masks = None
    if any(view.masks is not None for view in views):
        masks = np.zeros((len(chosen), *image_size), bool)
        for mask, index in zip(masks, chosen.tolist(), strict=True):
            detections.draw(mask, groups[index])
    return Merged(merged_boxes[chosen], merged_scores[chosen], classes[chosen], masks)


def check_fusion(fusion: str, iou_threshold: float) -> None:
    """Raise a ValueError for an unknown fusion, or a threshold outside its range."""
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(map(repr, FUSIONS))}, got {fusion!r}")
    if isinstance(iou_threshold, bool) or not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold!r}")


@dataclass(frozen=True)
class _AllDetections:
    """The detections of all views in one list, each with its view, its row there, and the sides that are cut off."""

    views: Sequence[ViewDetections]
    frames: np.ndarray  # (V, 4)
    view: np.ndarray  # (N,)
    row: np.ndarray  # (N,)
    boxes: np.ndarray  # (N, 4)
    scores: np.ndarray  # (N,)
    classes: np.ndarray  # (N,)
    is_cut: np.ndarray  # (N, 4) bool

    @classmethod
    def of(cls, views: Sequence[ViewDetections], image_size: tuple[int, int], border: float) -> "_AllDetections":
        height, width = image_size
        frames = np.array([view.frame for view in views], np.float64).reshape(-1, 4)
        view = np.repeat(np.arange(len(views)), [len(detections) for detections in views])
        boxes = np.concatenate([np.zeros((0, 4)), *(detections.boxes for detections in views)]).astype(np.float64)
        inside = np.stack([frames[:, 0] > 0, frames[:, 1] > 0, frames[:, 2] < width, frames[:, 3] < height], 1)
        return cls(
            views,
            frames,
            view,
            np.concatenate([np.zeros(0, np.int64), *(np.arange(len(detections)) for detections in views)]),
            boxes,
            np.concatenate([np.zeros(0), *(detections.scores for detections in views)]).astype(np.float64),
            np.concatenate([np.zeros(0, np.int64), *(detections.classes for detections in views)]).astype(np.int64),
            inside[view] & (np.abs(boxes - frames[view]) <= border),
        )

    def groups(self, iou_threshold: float) -> list[list[int]]:
        """Return the detections of each object (rules 1 and 2)."""
        agreements: list[tuple[float, int, int]] = []
        for first, second in combinations(range(len(self.views)), 2):
            area = _intersection(self.frames[first], self.frames[second])
            if (area[2:] <= area[:2]).any():
                continue
            rows, columns = np.flatnonzero(self.view == first), np.flatnonzero(self.view == second)
            # Most detections of a tile do not extend into the next tile.
            rows, columns = (index[_overlaps(self.boxes[index], area)] for index in (rows, columns))
            agreement = _pairwise_iou(_clipped(self.boxes[rows], area), _clipped(self.boxes[columns], area))
            agreement[self.classes[rows][:, None] != self.classes[columns]] = 0
            for i, j in zip(*np.nonzero(agreement >= iou_threshold), strict=True):
                agreements.append((float(agreement[i, j]), int(rows[i]), int(columns[j])))
        agreements.sort(key=lambda pair: (-pair[0], -(self.scores[pair[1]] + self.scores[pair[2]]), pair[1:]))
        group_of = {index: [index] for index in range(len(self.scores))}
        for _, i, j in agreements:
            first_group, second_group = group_of[i], group_of[j]
            if first_group is second_group:
                continue
            if {self.view[k] for k in first_group} & {self.view[k] for k in second_group}:
                continue
            first_group += second_group
            group_of.update(dict.fromkeys(second_group, first_group))
        return list({id(group): group for group in group_of.values()}.values())

    def box(self, group: list[int], fusion: str) -> np.ndarray:
        """Return the box of a group (rule 3), (4,)."""
        boxes, scores, is_cut = self.boxes[group], self.scores[group], self.is_cut[group]
        sides = np.empty(4)
        for side in range(4):
            whole = ~is_cut[:, side]
            if not whole.any():
                sides[side] = boxes[:, side].min() if side < 2 else boxes[:, side].max()
            elif fusion == "nms":
                sides[side] = boxes[whole, side][scores[whole].argmax()]
            else:
                weights = scores[whole] + 1e-12  # all scores may be 0
                sides[side] = (boxes[whole, side] * weights).sum() / weights.sum()
        return sides

    def score(self, group: list[int], fusion: str, box: np.ndarray) -> float:
        """Return the score of a group (rule 4)."""
        scores = self.scores[group]
        if fusion == "nms":
            return float(scores.max())
        shown = (self.frames[:, :2] <= box[:2] + 1e-3).all(1) & (self.frames[:, 2:] >= box[2:] - 1e-3).all(1)
        return float(scores.sum() / max(int(shown.sum()), len(group)))

    def whole_members(self, group: list[int]) -> list[int]:
        """Return the members of a group that are not cut off."""
        return [index for index in group if not self.is_cut[index].any()]

    def not_parts(self, groups: list[list[int]], boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return the indices of the groups that are not parts of other objects (rule 5)."""
        is_whole = np.array([bool(self.whole_members(group)) for group in groups], bool)
        whole = np.flatnonzero(is_whole)
        chosen = []
        for index in range(len(groups)):
            others = whole[classes[whole] == classes[index]]
            if is_whole[index] or not len(others):
                chosen.append(index)
                continue
            area = max(float(np.prod(boxes[index, 2:] - boxes[index, :2])), 1e-9)
            clipped = _clipped(boxes[others], boxes[index])
            if (np.prod(clipped[:, 2:] - clipped[:, :2], axis=1) < CONTAINED * area).all():
                chosen.append(index)
        return np.array(chosen, np.int64)

    def draw(self, mask: np.ndarray, group: list[int]) -> None:
        """Draw the mask of a group (rule 6) into an empty mask of the image's size."""
        whole = self.whole_members(group)
        for index in [max(whole, key=lambda member: self.scores[member])] if whole else group:
            view = self.views[self.view[index]]
            if view.masks is not None:
                x0, y0, x1, y1 = view.frame
                mask[y0:y1, x0:x1] |= view.masks[self.row[index]]


def _intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.concatenate([np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])])


def _overlaps(boxes: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which boxes overlap an area."""
    return np.logical_and((boxes[:, :2] < area[2:]).all(1), (boxes[:, 2:] > area[:2]).all(1))


def _clipped(boxes: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return (n, 4): boxes clipped to an area. Boxes outside the area get an area of 0."""
    first = np.clip(boxes[:, :2], area[:2], area[2:])
    return np.concatenate([first, np.maximum(np.clip(boxes[:, 2:], area[:2], area[2:]), first)], 1)


def _pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (n, m): intersection over union, 0 for boxes that both have an area of 0."""
    sides = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    common = sides.clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0)
