"""The confusion matrix, and the calibration of scores."""

from typing import NamedTuple

import numpy as np

from .matching import NOTHING, Matching, Pairs
from .tables import Detections, Objects


def confusion_matrix(
    objects: Objects, detections: Detections, pairs: Pairs, matching: Matching, *, thresholds: np.ndarray | float
) -> np.ndarray:
    """Count objects by their class and by the class that they are detected as.

    Correct detections are assigned to their objects first. The remaining detections follow by descending score: each is
    assigned to the free object with which it has the highest IoU, at least 0.5, regardless of the class.

    Args:
        objects, detections, pairs, matching: see `detrex_lite.analysis.find_errors`.
        thresholds: detections with lower scores are ignored; one value for all classes, or (K,).

    Returns:
        (K + 1, K + 1) int64: [k, j] is the number of objects of class k that were detected as class j. The last column
        counts objects that were not detected, the last row detections of background, the diagonal correct detections.
    """
    background = objects.num_classes
    shown = detections.scores >= np.broadcast_to(thresholds, objects.num_classes)[detections.classes]
    right = matching.right & shown
    detected_as = np.full(len(objects), background, dtype=np.int64)
    detected_as[matching.object[right]] = detections.classes[right]

    wrong = matching.wrong & shown
    free = ~objects.iscrowd & (detected_as == background)
    candidates = pairs.where(wrong[pairs.detection] & free[pairs.object] & (pairs.iou >= 0.5))
    order = np.lexsort((-candidates.iou, candidates.detection, -detections.scores[candidates.detection]))
    is_placed = np.zeros(len(detections), dtype=bool)
    for row in order.tolist():
        detection, object_ = candidates.detection[row], candidates.object[row]
        if free[object_] and not is_placed[detection]:
            free[object_], is_placed[detection] = False, True
            detected_as[object_] = detections.classes[detection]

    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    counted = ~objects.iscrowd
    np.add.at(matrix, (objects.classes[counted], detected_as[counted]), 1)
    np.add.at(matrix[background], detections.classes[wrong & ~is_placed], 1)
    return matrix


class Calibration(NamedTuple):
    """Scores compared with the fraction of detections that are correct.

    Attributes:
        error: the detection expected calibration error (D-ECE; Küppers et al., CVPR workshops 2020, over scores only):
            the mean of |precision - mean score| over bins, weighted by their numbers of detections; nan without
            detections.
        score: (bins,) mean score of the detections in each bin; nan in empty bins.
        precision: (bins,) fraction of the detections in each bin that are correct; nan in empty bins.
        counts: (bins,) int64, number of detections in each bin.
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
        detections: D detections.
        matching: decides which detections are correct; ignored detections are omitted.
        min_score: detections with lower scores are omitted, because they are so many that they would dominate the
            result.
        num_bins: number of bins of equal width.
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
