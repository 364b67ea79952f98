"""Kinds of errors, the gain in AP from fixing each kind, and the cost of each image.

The kinds are those of TIDE (Bolya et al., ECCV 2020), with its thresholds: a box or a mask is correct at an IoU of at
least 0.5, and background below 0.1. As in TIDE's toolbox, the first condition that holds for a wrong detection decides
its kind:

- localisation: IoU from 0.1 to 0.5 with an object of its class;
- classification: IoU of 0.5 or more with an object of another class;
- duplicate: IoU of 0.5 or more with an object of its class that a detection with a higher score has matched;
- background: IoU below 0.1 with every object;
- both: all others, which have an IoU from 0.1 to 0.5 with an object of another class.

An object is missed when no detection matches it, and none has a localisation or classification error with it.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .matching import NOTHING, Matching, Pairs
from .precision import average_precisions, rank_by_class
from .tables import Detections, Objects

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1

CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = KINDS = (
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)

MEANINGS = {
    CLASSIFICATION: "the place is right, the class is wrong",
    LOCALISATION: "the class is right, the overlap with the object is too small (IoU 0.1 to 0.5)",
    BOTH: "the class is wrong, and the overlap with the object is too small",
    DUPLICATE: "one more detection of an object that has been detected already",
    BACKGROUND: "a detection where no object is",
    MISSED: "an object that no detection is near",
}
"""The kinds of errors in plain words."""

_NO_ERROR = -1


class Errors(NamedTuple):
    """The error of each detection, and the missed objects, at given score thresholds.

    Attributes:
        kind: (D,) int64, the index in `KINDS`; -1 for detections that are correct, ignored or below the threshold.
        object: (D,) int64, the row of the object of a classification or localisation error, otherwise -1.
        missed: (T,) bool, True for missed objects.
    """

    kind: np.ndarray
    object: np.ndarray
    missed: np.ndarray

    def counts(self, detections: Detections, objects: Objects) -> dict[str, np.ndarray]:
        """Kind -> (K,) number of errors by the class of the detection, or of the object for missed objects."""
        result = {
            name: np.bincount(detections.classes[self.kind == number], minlength=objects.num_classes)
            for number, name in enumerate(KINDS[:-1])
        }
        result[MISSED] = np.bincount(objects.classes[self.missed], minlength=objects.num_classes)
        return result

    def counts_of_images(self, detections: Detections, objects: Objects) -> dict[str, np.ndarray]:
        """Kind -> (N,) number of errors in each image."""
        result = {
            name: np.bincount(detections.image[self.kind == number], minlength=objects.num_images)
            for number, name in enumerate(KINDS[:-1])
        }
        result[MISSED] = np.bincount(objects.image[self.missed], minlength=objects.num_images)
        return result


def find_errors(
    objects: Objects,
    detections: Detections,
    pairs: Pairs,
    matching: Matching,
    *,
    thresholds: np.ndarray | float = 0.0,
) -> Errors:
    """Find the kind of each wrong detection, and the missed objects.

    Args:
        objects, detections: of N images.
        pairs: result of `overlapping_pairs` with a minimum of `BACKGROUND_IOU`.
        matching: result of `match` with an IoU of `FOREGROUND_IOU`.
        thresholds: detections with lower scores are ignored; one value for all classes, or (K,).
    """
    shown = detections.scores >= np.broadcast_to(thresholds, objects.num_classes)[detections.classes]
    counted = pairs.where(~objects.iscrowd[pairs.object])
    same_class = detections.classes[counted.detection] == objects.classes[counted.object]
    class_iou, nearest = _best_of_each(counted.where(same_class), len(detections))
    other_class_iou, nearest_of_other_class = _best_of_each(counted.where(~same_class), len(detections))

    conditions = {
        LOCALISATION: (class_iou >= BACKGROUND_IOU) & (class_iou < FOREGROUND_IOU),
        CLASSIFICATION: other_class_iou >= FOREGROUND_IOU,
        DUPLICATE: class_iou >= FOREGROUND_IOU,
        BACKGROUND: np.maximum(class_iou, other_class_iou) < BACKGROUND_IOU,
        BOTH: np.ones(len(detections), dtype=bool),
    }
    wrong = matching.wrong & shown
    kind = np.full(len(detections), _NO_ERROR, dtype=np.int64)
    for name, holds in conditions.items():
        kind[wrong & holds & (kind == _NO_ERROR)] = KINDS.index(name)

    error_object = np.full(len(detections), NOTHING, dtype=np.int64)
    is_localisation, is_classification = kind == KINDS.index(LOCALISATION), kind == KINDS.index(CLASSIFICATION)
    error_object[is_localisation] = nearest[is_localisation]
    error_object[is_classification] = nearest_of_other_class[is_classification]

    missed = ~objects.iscrowd
    missed[matching.object[matching.right & shown]] = False
    missed[error_object[error_object != NOTHING]] = False
    return Errors(kind, error_object, missed)


def precision_if_fixed(
    objects: Objects, detections: Detections, matching: Matching, errors: Errors
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The AP50 of each class, and its value without the errors of each kind (TIDE's oracles).

    To fix classification errors, detections get the class of their object; to fix localisation errors, its box or mask.
    If the object is detected already, or several errors concern one object, only the detection with the highest score
    remains. Errors of the kinds both, duplicate and background are removed. Missed objects no longer count as objects.

    Args:
        objects, detections, matching: see `find_errors`.
        errors: result of `find_errors` with detections of all scores.

    Returns:
        (K,) 0..1, nan for classes without objects; and kind -> the same after fixing. Fixing missed objects gives a
        class of which every object is missed an AP50 of 1.
    """
    positives = objects.per_class()

    def precisions(classes: np.ndarray, right: np.ndarray, kept: np.ndarray, number: np.ndarray) -> np.ndarray:
        return average_precisions(classes[kept], detections.scores[kept], right[kept], number)

    kept, right, classes = ~matching.ignored, matching.right, detections.classes
    is_detected = np.zeros(len(objects), dtype=bool)
    is_detected[matching.object[right]] = True
    fixed = {}
    for number, name in enumerate(KINDS[:-1]):
        rows = np.flatnonzero(errors.kind == number)
        becomes_right, new_classes = right.copy(), classes.copy()
        if name in (CLASSIFICATION, LOCALISATION):
            error_object = errors.object[rows]
            order = np.lexsort((rows, -detections.scores[rows], error_object))
            first = np.ones(len(rows), dtype=bool)
            first[1:] = np.diff(error_object[order]) != 0
            chosen = rows[order[first]]
            chosen = chosen[~is_detected[errors.object[chosen]]]
            becomes_right[chosen] = True
            new_classes[chosen] = objects.classes[errors.object[chosen]]
            rows = np.setdiff1d(rows, chosen)
        remaining = kept.copy()
        remaining[rows] = False
        fixed[name] = precisions(new_classes, becomes_right, remaining, positives)
    missed = np.bincount(objects.classes[errors.missed], minlength=objects.num_classes)
    fixed[MISSED] = precisions(classes, right, kept, positives - missed)
    fixed[MISSED][(positives > 0) & (positives == missed)] = 1.0
    return precisions(classes, right, kept, positives), fixed


class Costs(NamedTuple):
    """The contributions of wrong detections and undetected objects to 1 - mAP.

    Without COCO's interpolation, 1 - AP of a class with P objects is the sum of 1/P for each undetected object and, for
    each correct detection at rank r, of 1/(P r) for each wrong detection above it. The costs are these terms, divided
    by the number of classes that have objects; their sum is 1 - mAP.

    Attributes:
        detection: (D,) costs, 0 for correct detections.
        object: (T,) costs, 0 for detected objects.
    """

    detection: np.ndarray
    object: np.ndarray

    def of_images(self, detections: Detections, objects: Objects) -> np.ndarray:
        """(N,) the cost of each image."""
        detection_costs = np.bincount(detections.image, self.detection, minlength=objects.num_images)
        return detection_costs + np.bincount(objects.image, self.object, minlength=objects.num_images)


def find_costs(objects: Objects, detections: Detections, matching: Matching) -> Costs:
    """Compute the costs of all detections and objects at the IoU of `matching`."""
    positives = objects.per_class()
    num_classes = max(int((positives > 0).sum()), 1)
    cost_per_object = 1 / (np.maximum(positives, 1) * num_classes)
    cost_per_object[positives == 0] = 0.0

    detection_costs = np.zeros(len(detections))
    kept = np.flatnonzero(~matching.ignored)
    order = kept[rank_by_class(detections.classes[kept], detections.scores[kept])]
    bounds = np.searchsorted(detections.classes[order], np.arange(objects.num_classes + 1))
    for number, (first, last) in enumerate(pairwise(bounds)):
        rows = order[first:last]
        right = matching.right[rows]
        by_rank = np.where(right, 1 / np.arange(1, len(rows) + 1), 0.0)
        below = np.cumsum(by_rank[::-1])[::-1] - by_rank  # sum over the correct detections below each rank
        detection_costs[rows] = np.where(right, 0.0, below * cost_per_object[number])

    undetected = ~objects.iscrowd
    undetected[matching.object[matching.right]] = False
    return Costs(detection_costs, np.where(undetected, cost_per_object[objects.classes], 0.0))


def _best_of_each(pairs: Pairs, num_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """(D,) the highest IoU of each detection, and (D,) the object of that pair; 0 and `NOTHING` without a pair."""
    best = np.zeros(num_detections)
    nearest = np.full(num_detections, NOTHING, dtype=np.int64)
    order = np.lexsort((pairs.iou, pairs.detection))
    best[pairs.detection[order]] = pairs.iou[order]  # the last of several assignments to an index remains
    nearest[pairs.detection[order]] = pairs.object[order]
    return best, nearest
