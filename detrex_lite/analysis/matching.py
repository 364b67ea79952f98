"""COCO's matching of detections with objects, for all images at once.

Detections of a class are processed by descending score; each is matched with the unmatched object of its class with the
highest IoU, which must reach the threshold. pycocotools loops over images and classes. Here the first detections of all
images and classes are matched together, then all second ones, and so on. The number of steps is therefore the largest
number of candidates of one class in one image, regardless of the number of images.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .masks import Masks, mask_ious
from .tables import Detections, Objects, box_areas

_PAIRS_AT_ONCE = 2_000_000
NOTHING = -1
"""The index that stands for no object."""


class Pairs(NamedTuple):
    """Pairs of a detection and an object that overlap, of all images.

    Attributes:
        detection: (P,) rows of `Detections`, ascending.
        object: (P,) rows of `Objects`.
        iou: (P,) float64 IoU; for crowds the fraction of the detection inside the crowd.
    """

    detection: np.ndarray
    object: np.ndarray
    iou: np.ndarray

    def where(self, rows: np.ndarray) -> "Pairs":
        """The pairs in the selected rows, given as indices or as a bool mask (P,)."""
        return Pairs(self.detection[rows], self.object[rows], self.iou[rows])


class Matching(NamedTuple):
    """The match of each detection.

    Attributes:
        object: (D,) the row of the matched object, or `NOTHING`.
        ignored: (D,) bool, True for detections that are neither correct nor wrong: in a crowd, or of another size.
    """

    object: np.ndarray
    ignored: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(D,) bool: true positives."""
        return (self.object != NOTHING) & ~self.ignored

    @property
    def wrong(self) -> np.ndarray:
        """(D,) bool: false positives."""
        return (self.object == NOTHING) & ~self.ignored


def overlapping_pairs(objects: Objects, detections: Detections, minimum: float = 0.1) -> Pairs:
    """All pairs of a detection and an object of its image whose IoU is at least `minimum`, regardless of their classes.

    The IoU is that of masks if the tables have masks, and otherwise that of boxes.

    Raises:
        ValueError: when a detection is in an image that `objects` does not have, or only one of the tables has masks,
            or masks of one image have different sizes.
    """
    if len(detections) and not 0 <= detections.image.min() <= detections.image.max() < objects.num_images:
        raise ValueError(f"there are detections in images outside 0..{objects.num_images - 1}")
    if objects.masks is not None and detections.masks is not None:
        parts = _mask_pairs(objects, objects.masks, detections, detections.masks, minimum)
    elif objects.masks is None and detections.masks is None:
        parts = _box_pairs(objects, detections, minimum)
    else:
        with_masks, without = ("objects", "detections") if detections.masks is None else ("detections", "objects")
        raise ValueError(f"the {with_masks} have masks, but the {without} have none: both need masks, or neither")
    nothing = np.zeros(0, dtype=np.int64)
    pairs = Pairs(*map(np.concatenate, zip(Pairs(nothing, nothing, np.zeros(0)), *parts, strict=True)))
    return pairs.where(np.argsort(pairs.detection, kind="stable"))


def _mask_pairs(
    objects: Objects, object_masks: Masks, detections: Detections, detection_masks: Masks, minimum: float
) -> Iterator[Pairs]:
    """Yield the pairs of each image; raises a ValueError for masks of different sizes in one image."""
    rows_of_detections, rows_of_objects = (
        _rows_of_images(table.image, objects.num_images) for table in (detections, objects)
    )
    for image, (detection_rows, object_rows) in enumerate(zip(rows_of_detections, rows_of_objects, strict=True)):
        if not len(detection_rows) or not len(object_rows):
            continue
        detected, annotated = detection_masks[detection_rows], object_masks[object_rows]
        height, width = annotated.sizes[0]
        for masks in (annotated, detected):
            if len(different := masks.sizes[(masks.sizes != (height, width)).any(axis=1)]):
                raise ValueError(
                    f"image {image} has masks of different sizes (height x width): {height} x {width} and "
                    f"{different[0, 0]} x {different[0, 1]}"
                )
        ious = mask_ious(detected, annotated, objects.iscrowd[object_rows])
        row, column = (ious >= minimum).nonzero()
        yield Pairs(detection_rows[row], object_rows[column], ious[row, column])


def _rows_of_images(image: np.ndarray, num_images: int) -> list[np.ndarray]:
    """N arrays, the rows in each image, ascending."""
    order = np.argsort(image, kind="stable")
    return np.split(order, np.searchsorted(image[order], np.arange(1, num_images)))


def _box_pairs(objects: Objects, detections: Detections, minimum: float) -> Iterator[Pairs]:
    """Yield the pairs of some detections at a time."""
    by_image = np.argsort(objects.image, kind="stable")
    counts = np.bincount(objects.image, minlength=objects.num_images)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    object_areas, detection_areas = box_areas(objects.boxes), box_areas(detections.boxes)
    partners = counts[detections.image]  # objects in the image of each detection
    ends = np.cumsum(partners)
    first = 0
    while first < len(detections):
        num_pairs_before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, num_pairs_before + _PAIRS_AT_ONCE, side="right")), first + 1)
        rows = np.arange(first, last)
        number = partners[rows]
        detection = np.repeat(rows, number)
        position = np.arange(len(detection)) - np.repeat(np.cumsum(number) - number, number)
        object_ = by_image[starts[detections.image[detection]] + position]
        detection_boxes, object_boxes = detections.boxes[detection], objects.boxes[object_]
        sides = np.minimum(detection_boxes[:, 2:], object_boxes[:, 2:]) - np.maximum(
            detection_boxes[:, :2], object_boxes[:, :2]
        )
        overlap = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)
        union = detection_areas[detection] + np.where(objects.iscrowd[object_], 0, object_areas[object_] - overlap)
        iou = overlap / np.maximum(union, np.finfo(float).tiny)
        kept = iou >= minimum
        yield Pairs(detection[kept], object_[kept], iou[kept])
        first = last


def match(
    objects: Objects,
    detections: Detections,
    pairs: Pairs,
    *,
    iou: float = 0.5,
    area_range: tuple[float, float] | None = None,
) -> Matching:
    """Match detections with objects of their class.

    Args:
        objects, detections: of N images.
        pairs: result of `overlapping_pairs`, with a minimum of at most `iou`.
        iou: minimum IoU of a match.
        area_range: in square pixels, both ends included; objects of other sizes are ignored. Detections are ignored if
            they match such an object, or match no object and have another size themselves.
    """
    ignored_objects = objects.iscrowd
    if area_range is not None:
        low, high = area_range
        ignored_objects = ignored_objects | (objects.areas < low) | (objects.areas > high)
    same_class = detections.classes[pairs.detection] == objects.classes[pairs.object]
    pairs = pairs.where(same_class & (pairs.iou >= min(iou, 1 - 1e-10)))
    matched = _match_in_rounds(objects, detections, pairs, ignored_objects)
    ignored = np.zeros(len(detections), dtype=bool)
    has_object = matched != NOTHING
    ignored[has_object] = ignored_objects[matched[has_object]]
    if area_range is not None:
        areas = detections.areas
        ignored |= ~has_object & ((areas < area_range[0]) | (areas > area_range[1]))
    return Matching(matched, ignored)


def _match_in_rounds(objects: Objects, detections: Detections, pairs: Pairs, ignored_objects: np.ndarray) -> np.ndarray:
    """(D,) the object of each detection. Each round matches the next best detection of each image and class."""
    matched = np.full(len(detections), NOTHING, dtype=np.int64)
    if not len(pairs.detection):
        return matched
    candidates = pairs.detection[np.append(True, np.diff(pairs.detection) != 0)]
    image, classes = detections.image[candidates], detections.classes[candidates]
    order = np.lexsort((candidates, -detections.scores[candidates], classes, image))
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (np.diff(image[order]) != 0) | (np.diff(classes[order]) != 0)
    places = np.arange(len(order))
    rounds = np.zeros(len(detections), dtype=np.int64)
    rounds[candidates[order]] = places - np.maximum.accumulate(np.where(begins, places, 0))

    # As in pycocotools: objects that are not ignored come first, then the highest IoU, then the last of equal ones.
    pair_rounds = rounds[pairs.detection]
    order = np.lexsort((-pairs.object, -pairs.iou, ignored_objects[pairs.object], pairs.detection, pair_rounds))
    detection, object_, pair_rounds = pairs.detection[order], pairs.object[order], pair_rounds[order]
    bounds = np.searchsorted(pair_rounds, np.arange(pair_rounds[-1] + 2))
    taken = np.zeros(len(objects), dtype=bool)
    for first, last in pairwise(bounds):
        rows = np.arange(first, last)
        rows = rows[~taken[object_[rows]]]
        chosen = np.ones(len(rows), dtype=bool)
        chosen[1:] = np.diff(detection[rows]) != 0
        rows = rows[chosen]
        matched[detection[rows]] = object_[rows]
        taken[object_[rows]] = ~objects.iscrowd[object_[rows]]  # a crowd can match any number of detections
    return matched
