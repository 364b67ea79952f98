"""Which class is taken for which, and whether scores can be believed."""

from typing import NamedTuple

import numpy as np

from .matching import NOTHING, Matching, Pairs
from .tables import Detections, Objects


def confusion_matrix(
    objects: Objects, detections: Detections, pairs: Pairs, matching: Matching, *, thresholds: np.ndarray | float
) -> np.ndarray:
    """Numbers of objects by their class and by the class that they are detected as.

    Objects get the detections that are right about them. Of what is left, the detection with the highest score takes
    the object, of whatever other class, with which it has the highest IoU, at least 0.5, and so on.

    Args:
        objects, detections, pairs, matching: see `detrex_lite.analysis.find_errors`.
        thresholds: detections with lower scores do not exist; one for all classes, or (K,).

    Returns:
        (K + 1, K + 1) int64: [k, j] is how many objects of class k were detected as class j; the last column counts
        objects that were not detected, the last row detections that are no object. The diagonal has what is right.
    """
    nothing = objects.num_classes
    shown = detections.scores >= np.broadcast_to(thresholds, objects.num_classes)[detections.classes]
    right = matching.right & shown
    detected_as = np.full(len(objects), nothing, dtype=np.int64)
    detected_as[matching.object[right]] = detections.classes[right]

    wrong = matching.wrong & shown
    free = ~objects.iscrowd & (detected_as == nothing)
    candidates = pairs.where(wrong[pairs.detection] & free[pairs.object] & (pairs.iou >= 0.5))
    order = np.lexsort((-candidates.iou, candidates.detection, -detections.scores[candidates.detection]))
    is_placed = np.zeros(len(detections), dtype=bool)
    for row in order.tolist():
        detection, object_ = candidates.detection[row], candidates.object[row]
        if free[object_] and not is_placed[detection]:
            free[object_], is_placed[detection] = False, True
            detected_as[object_] = detections.classes[detection]

    matrix = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    counted = ~objects.iscrowd
    np.add.at(matrix, (objects.classes[counted], detected_as[counted]), 1)
    np.add.at(matrix[nothing], detections.classes[wrong & ~is_placed], 1)
    return matrix


class Calibration(NamedTuple):
    """Scores against the share of detections that are right.

    Attributes:
        error: the detection expected calibration error (D-ECE; Küppers et al., CVPR workshops 2020, over scores alone):
            the mean over bins of the score of |precision - mean score|, weighted by their detections; nan without any.
        score: (bins,) mean score of the detections in each bin; nan in empty ones.
        precision: (bins,) share of them that is right.
        counts: (bins,) int64.
    """

    error: float
    score: np.ndarray
    precision: np.ndarray
    counts: np.ndarray


def calibrate(
    detections: Detections, matching: Matching, *, min_score: float = 0.05, num_bins: int = 10
) -> Calibration:
    """Compare scores with precision, in `num_bins` bins of equal width between 0 and 1.

    Args:
        detections: D.
        matching: says what is right; ignored detections are left out.
        min_score: so are lower scores: the many boxes of a detector that it does not believe in itself would hide all
            others.
        num_bins: of equal width.
    """
    kept = ~matching.ignored & (detections.scores >= min_score)
    scores, right = detections.scores[kept], (matching.object[kept] != NOTHING).astype(float)
    bins = np.clip((scores * num_bins).astype(np.int64), 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        score = np.bincount(bins, scores, minlength=num_bins) / count
        precision = np.bincount(bins, right, minlength=num_bins) / count
    filled = count > 0
    gap = np.abs(precision - score)[filled]
    error = float((gap * count[filled]).sum() / count.sum()) if filled.any() else float("nan")
    return Calibration(error, score, precision, count)
