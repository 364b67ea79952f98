"""Average precision, precision-recall curves, and the thresholds with the highest F1."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .matching import Matching, Pairs, match
from .tables import Detections, Objects

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's IoU thresholds, over which AP is averaged."""

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's ranges of areas in square pixels of the original image."""

CROWDING = {"1 object": (1, 1), "2 to 4": (2, 4), "5 to 9": (5, 9), "10 to 19": (10, 19), "20 and more": (20, 10**9)}
"""Ranges of the number of objects in an image, both ends included."""

_RECALLS = np.linspace(0, 1, 101)


class Curve(NamedTuple):
    """Precision and recall of a class at the score of each detection, by descending score.

    Attributes:
        scores: (n,) thresholds: detections with at least this score count.
        precision: (n,) 0..1.
        recall: (n,) 0..1.
        f1: (n,) 0..1, the harmonic mean of precision and recall.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


class OperatingPoint(NamedTuple):
    """The threshold with the highest F1, and the values at it. All are nan when no detection is correct."""

    threshold: float
    precision: float
    recall: float
    f1: float


def rank_by_class(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(D,) rows by ascending class, then by descending score. Rows that already have this order are not sorted."""
    steps, falls = np.diff(classes), np.diff(scores)
    if ((steps > 0) | ((steps == 0) & (falls <= 0))).all():
        return np.arange(len(classes))
    return np.lexsort((-scores, classes))


def average_precisions(classes: np.ndarray, scores: np.ndarray, right: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """COCO's interpolated average precision of each class, at one IoU threshold.

    Args:
        classes: (D,) classes of detections that are correct or wrong; the caller removes ignored ones.
        scores: (D,) scores of these detections.
        right: (D,) bool, True for correct detections.
        positives: (K,) numbers of objects of each class.

    Returns:
        (K,) 0..1; nan for a class without objects.
    """
    result = np.full(len(positives), np.nan)
    order = rank_by_class(classes, scores)
    right, classes = right[order], classes[order]
    bounds = np.searchsorted(classes, np.arange(len(positives) + 1))
    for number in np.flatnonzero(positives):
        hits = np.cumsum(right[bounds[number] : bounds[number + 1]])
        if not len(hits) or hits[-1] == 0:
            result[number] = 0.0
            continue
        precision = hits / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hits / positives[number], _RECALLS, side="left")
        result[number] = np.append(envelope, 0.0)[places].mean()
    return result


def class_average_precisions(
    objects: Objects,
    detections: Detections,
    pairs: Pairs,
    *,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    area_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """AP of each class at several IoU thresholds; their mean is COCO's AP.

    Args:
        objects, pairs, area_range: see `match`.
        detections: result of `Detections.at_most`: COCO counts 100 detections of each class in each image.
        iou_thresholds: S thresholds.

    Returns:
        (S, K) 0..1; nan for classes without objects (of that size).
    """
    counted = ~objects.iscrowd
    if area_range is not None:
        counted &= (objects.areas >= area_range[0]) & (objects.areas <= area_range[1])
    positives = np.bincount(objects.classes[counted], minlength=objects.num_classes)
    rows = []
    for iou in iou_thresholds:
        matching = match(objects, detections, pairs, iou=iou, area_range=area_range)
        kept = ~matching.ignored
        rows.append(
            average_precisions(detections.classes[kept], detections.scores[kept], matching.right[kept], positives)
        )
    return np.stack(rows)


def precision_by_size(
    objects: Objects, detections: Detections, pairs: Pairs, sizes: dict[str, tuple[float, float]] | None = None
) -> dict[str, tuple[int, float]]:
    """Name of a size -> number of objects and their AP (0..1, nan without objects), like COCO's APs, APm and APl."""
    result = {}
    for name, (low, high) in (SIZES if sizes is None else sizes).items():
        number = int((~objects.iscrowd & (objects.areas >= low) & (objects.areas <= high)).sum())
        precision = class_average_precisions(objects, detections, pairs, area_range=(low, high)) if number else np.nan
        result[name] = number, _mean(precision)
    return result


def precision_by_crowding(
    objects: Objects, detections: Detections, pairs: Pairs, ranges: dict[str, tuple[int, int]] | None = None
) -> dict[str, tuple[int, float]]:
    """Number of objects in an image -> number of such images and the AP on only these (0..1, nan without images)."""
    per_image = objects.per_image()
    matchings = [match(objects, detections, pairs, iou=iou) for iou in IOU_THRESHOLDS]
    result = {}
    for name, (low, high) in (CROWDING if ranges is None else ranges).items():
        images = (per_image >= low) & (per_image <= high)
        counted = images[objects.image] & ~objects.iscrowd
        positives = np.bincount(objects.classes[counted], minlength=objects.num_classes)
        inside = images[detections.image]
        values = []
        for matching in matchings if counted.any() else ():
            kept = inside & ~matching.ignored
            values.append(
                average_precisions(detections.classes[kept], detections.scores[kept], matching.right[kept], positives)
            )
        result[name] = int(images.sum()), _mean(np.stack(values)) if values else float("nan")
    return result


def class_curves(objects: Objects, detections: Detections, matching: Matching) -> list[Curve]:
    """The curve of each class; empty for a class without objects or detections.

    Args:
        objects, detections: of N images.
        matching: result of `match` at the IoU of the curves.
    """
    positives = objects.per_class()
    kept = ~matching.ignored
    classes, scores, right = detections.classes[kept], detections.scores[kept], matching.right[kept]
    order = rank_by_class(classes, scores)
    bounds = np.searchsorted(classes[order], np.arange(objects.num_classes + 1))
    return [
        _curve(scores[order[first:last]], right[order[first:last]], number)
        for first, last, number in zip(bounds[:-1], bounds[1:], positives.tolist(), strict=True)
    ]


def joint_curve(objects: Objects, detections: Detections, matching: Matching) -> Curve:
    """The curve for a single threshold for all classes, whose objects and detections are counted together."""
    kept = ~matching.ignored
    scores, right = detections.scores[kept], matching.right[kept]
    order = np.argsort(-scores, kind="stable")
    return _curve(scores[order], right[order], int(objects.per_class().sum()))


def _curve(scores: np.ndarray, right: np.ndarray, positives: int) -> Curve:
    """The curve of detections in descending order of scores."""
    if positives == 0 or not len(scores):
        empty = np.zeros(0)
        return Curve(empty, empty, empty, empty)
    hits = np.cumsum(right)
    ends = np.append(scores[1:] != scores[:-1], True)  # no threshold separates equal scores
    recall, precision = hits / positives, hits / np.arange(1, len(hits) + 1)
    f1 = 2 * hits / (positives + np.arange(1, len(hits) + 1))
    return Curve(scores[ends], precision[ends], recall[ends], f1[ends])


def best_point(curve: Curve) -> OperatingPoint:
    """The point of a curve with the highest F1; among equal ones, the one with the highest threshold."""
    if not len(curve.f1) or curve.f1.max() == 0:
        return OperatingPoint(*[float("nan")] * 4)
    best = int(curve.f1.argmax())
    return OperatingPoint(*(float(column[best]) for column in curve))


def interpolated_precision(curve: Curve, recalls: np.ndarray) -> np.ndarray:
    """The highest precision at each recall or above, 0 beyond the end of the curve; AP is the mean of such values."""
    envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return np.append(envelope, 0.0)[np.searchsorted(curve.recall, recalls, side="left")]


def _mean(values: np.ndarray | float) -> float:
    finite = np.asarray(values)[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
