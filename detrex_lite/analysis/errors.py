"""Kinds of errors, what fixing each kind would give, and what each image costs.

The kinds are those of TIDE (Bolya et al., ECCV 2020), with its thresholds: a box is right from an IoU of 0.5 on, and on
nothing below one of 0.1. As in its toolbox, the first of these that holds for a wrong detection names its error:

- localisation: IoU from 0.1 to 0.5 with an object of its class;
- classification: IoU of 0.5 or more with an object of another class;
- duplicate: IoU of 0.5 or more with an object of its class, which a detection with a higher score is;
- background: IoU below 0.1 with every object;
- both: what is left, IoU from 0.1 to 0.5 with an object of another class.

An object is missed when no detection is right about it and none has a localisation or classification error with it.
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
    CLASSIFICATION: "the box is right, the class is wrong",
    LOCALISATION: "the class is right, the box overlaps the object too little (IoU 0.1 to 0.5)",
    BOTH: "the class is wrong and the box overlaps the object too little",
    DUPLICATE: "one more box on an object that has been detected already",
    BACKGROUND: "a box where no object is",
    MISSED: "an object that no box is near",
}
"""The kinds of errors in plain words."""

_NO_ERROR = -1


class Errors(NamedTuple):
    """The error of each detection, and the objects that are missed, at some thresholds of the score.

    Attributes:
        kind: (D,) int64, the position in `KINDS`; -1 for detections that are right, ignored or below the threshold.
        object: (D,) int64, the row of the object that a classification or localisation error is about, else -1.
        missed: (T,) bool.
    """

    kind: np.ndarray
    object: np.ndarray
    missed: np.ndarray

    def counts(self, detections: Detections, objects: Objects) -> dict[str, np.ndarray]:
        """Kind -> (K,) number of errors of each class: that of the detection, and of missed objects their own."""
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
    """The kind of each wrong detection, and the missed objects.

    Args:
        objects, detections: N images.
        pairs: of `overlapping_pairs` with a minimum of `BACKGROUND_IOU`.
        matching: of `match` with an IoU of `FOREGROUND_IOU`.
        thresholds: detections with lower scores do not exist; one for all classes, or (K,).
    """
    shown = detections.scores >= np.broadcast_to(thresholds, objects.num_classes)[detections.classes]
    counted = pairs.where(~objects.iscrowd[pairs.object])
    same_class = detections.classes[counted.detection] == objects.classes[counted.object]
    of_class, nearest = _best_of_each(counted.where(same_class), len(detections))
    of_others, nearest_other = _best_of_each(counted.where(~same_class), len(detections))

    conditions = {
        LOCALISATION: (of_class >= BACKGROUND_IOU) & (of_class < FOREGROUND_IOU),
        CLASSIFICATION: of_others >= FOREGROUND_IOU,
        DUPLICATE: of_class >= FOREGROUND_IOU,
        BACKGROUND: np.maximum(of_class, of_others) < BACKGROUND_IOU,
        BOTH: np.ones(len(detections), dtype=bool),
    }
    wrong = matching.wrong & shown
    kind = np.full(len(detections), _NO_ERROR, dtype=np.int64)
    for name, holds in conditions.items():
        kind[wrong & holds & (kind == _NO_ERROR)] = KINDS.index(name)

    about = np.full(len(detections), NOTHING, dtype=np.int64)
    is_localisation, is_classification = kind == KINDS.index(LOCALISATION), kind == KINDS.index(CLASSIFICATION)
    about[is_localisation] = nearest[is_localisation]
    about[is_classification] = nearest_other[is_classification]

    missed = ~objects.iscrowd
    missed[matching.object[matching.right & shown]] = False
    missed[about[about != NOTHING]] = False
    return Errors(kind, about, missed)


def precision_if_fixed(
    objects: Objects, detections: Detections, matching: Matching, errors: Errors
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """AP50 of each class as it is, and as it would be without the errors of each kind (TIDE's oracles).

    Classification errors get the class of their object, localisation errors its box; where the object has been
    detected, or several errors are about one object, all but the detection with the highest score are left out.
    Errors of the kinds both, duplicate and background are left out. Missed objects no longer count as objects.

    Args:
        objects, detections, matching: see `find_errors`.
        errors: of `find_errors` with all detections, whatever their scores.

    Returns:
        (K,) 0..1, nan for classes without objects; and kind -> the same after fixing. A class of which every object is
        missed has 1 after that is fixed.
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
            about = errors.object[rows]
            order = np.lexsort((rows, -detections.scores[rows], about))
            first = np.ones(len(rows), dtype=bool)
            first[1:] = np.diff(about[order]) != 0
            chosen = rows[order[first]]
            chosen = chosen[~is_detected[errors.object[chosen]]]
            becomes_right[chosen] = True
            new_classes[chosen] = objects.classes[errors.object[chosen]]
            rows = np.setdiff1d(rows, chosen)
        without = kept.copy()
        without[rows] = False
        fixed[name] = precisions(new_classes, becomes_right, without, positives)
    missed = np.bincount(objects.classes[errors.missed], minlength=objects.num_classes)
    fixed[MISSED] = precisions(classes, right, kept, positives - missed)
    fixed[MISSED][(positives > 0) & (positives == missed)] = 1.0
    return precisions(classes, right, kept, positives), fixed


class Costs(NamedTuple):
    """What wrong detections and undetected objects take from the AP, each as a part of 1.

    Without COCO's interpolation, 1 - AP of a class with P objects is the sum of 1/P for each object that no detection
    is right about, and, for each right detection at rank r, of 1/(P r) for each wrong one above it. These shares are
    the costs, divided by the number of classes that have objects: their sum is 1 - mAP.

    Attributes:
        detection: (D,), 0 for right ones.
        object: (T,), 0 for detected ones.
    """

    detection: np.ndarray
    object: np.ndarray

    def of_images(self, detections: Detections, objects: Objects) -> np.ndarray:
        """(N,) what each image costs."""
        of_detections = np.bincount(detections.image, self.detection, minlength=objects.num_images)
        return of_detections + np.bincount(objects.image, self.object, minlength=objects.num_images)


def find_costs(objects: Objects, detections: Detections, matching: Matching) -> Costs:
    """The costs of all detections and objects at the IoU of `matching`."""
    positives = objects.per_class()
    num_classes = max(int((positives > 0).sum()), 1)
    share = 1 / (np.maximum(positives, 1) * num_classes)
    share[positives == 0] = 0.0

    of_detections = np.zeros(len(detections))
    kept = np.flatnonzero(~matching.ignored)
    order = kept[rank_by_class(detections.classes[kept], detections.scores[kept])]
    bounds = np.searchsorted(detections.classes[order], np.arange(objects.num_classes + 1))
    for number, (first, last) in enumerate(pairwise(bounds)):
        rows = order[first:last]
        right = matching.right[rows]
        by_rank = np.where(right, 1 / np.arange(1, len(rows) + 1), 0.0)
        below = np.cumsum(by_rank[::-1])[::-1] - by_rank  # of the right detections below each rank
        of_detections[rows] = np.where(right, 0.0, below * share[number])

    undetected = ~objects.iscrowd
    undetected[matching.object[matching.right]] = False
    return Costs(of_detections, np.where(undetected, share[objects.classes], 0.0))


def _best_of_each(pairs: Pairs, num_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """(D,) the highest IoU of each detection and the object it is with; 0 and `NOTHING` without a pair."""
    best = np.zeros(num_detections)
    nearest = np.full(num_detections, NOTHING, dtype=np.int64)
    order = np.lexsort((pairs.iou, pairs.detection))
    best[pairs.detection[order]] = pairs.iou[order]  # of several assignments to one place the last one stays
    nearest[pairs.detection[order]] = pairs.object[order]
    return best, nearest
