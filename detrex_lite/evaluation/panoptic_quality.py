"""Panoptic quality: the agreement of non-overlapping segments of an image with the annotated ones.

Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. Rules of the reference implementation (panopticapi) that
the paper does not specify are marked as such.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

VOID = 0
"""The id of pixels that belong to no segment."""


class Segment(NamedTuple):
    """A segment of an image, the pixels with its id.

    Attributes:
        id: unique among the segments of the image, and not `VOID`.
        class_index: 0..K-1.
        iscrowd: whether it is a region of many objects that were not annotated separately; for annotated segments only.
    """

    id: int
    class_index: int
    iscrowd: bool = False


def compare_segments(
    truth_ids: np.ndarray,
    truth: Sequence[Segment],
    found_ids: np.ndarray,
    found: Sequence[Segment],
    num_classes: int,
) -> np.ndarray:
    """Match the predicted segments of one image with the annotated ones.

    A pair matches when both have the same class and the IoU is above one half, so that neither segment can have another
    match. Void pixels of the annotation are removed from a predicted segment before its IoU is computed; crowds match
    nothing. A predicted segment without a match is a false positive unless more than half of it is void or in crowds of
    its class (the reference implementation adds both areas). Crowds are never false negatives.

    Args:
        truth_ids, found_ids: (H, W) integers, the id of each pixel's segment or `VOID`.
        truth, found: the segments. Those of `truth` may have no pixel, and are then false negatives.
        num_classes: K.

    Returns:
        (K, 4) float64, for each class: the sum of IoU of matched pairs, and the numbers of matched pairs, false
        positives and false negatives.

    Raises:
        ValueError: when the sizes differ, an id belongs to no segment, two segments have the same id, or a predicted
            segment has no pixel.
    """
    if truth_ids.shape != found_ids.shape:
        (height, width), (other_height, other_width) = found_ids.shape, truth_ids.shape
        raise ValueError(
            f"the predicted segments are for {height} x {width} pixels (height x width), those of the annotation for "
            f"{other_height} x {other_width}"
        )
    truth_rows = _rows(truth_ids, truth, "annotated")
    found_rows = _rows(found_ids, found, "found")
    num_truth, num_found = len(truth) + 1, len(found) + 1
    cells = np.bincount((truth_rows * num_found + found_rows).ravel(), minlength=num_truth * num_found)
    overlap = cells.reshape(num_truth, num_found)  # row and column 0 are void
    truth_areas, found_areas = overlap.sum(axis=1)[1:], overlap.sum(axis=0)[1:]
    for segment, area in zip(found, found_areas, strict=True):
        if area == 0:
            raise ValueError(f"segment {segment.id} was predicted, but no pixel has its id")
    void, overlap = overlap[0, 1:], overlap[1:, 1:]
    truth_classes = np.array([segment.class_index for segment in truth], dtype=np.int64)
    found_classes = np.array([segment.class_index for segment in found], dtype=np.int64)
    crowd = np.array([segment.iscrowd for segment in truth], dtype=bool)
    same_class = truth_classes[:, None] == found_classes

    union = truth_areas[:, None] + found_areas - overlap - void
    matched = same_class & ~crowd[:, None] & (2 * overlap > union)
    ignored = void + (overlap * (same_class & crowd[:, None])).sum(axis=0)
    wrong = ~matched.any(axis=0) & (2 * ignored <= found_areas)
    missed = ~matched.any(axis=1) & ~crowd

    counts = np.zeros((num_classes, 4))
    rows, columns = matched.nonzero()
    np.add.at(counts[:, 0], truth_classes[rows], overlap[rows, columns] / union[rows, columns])
    for column, classes in enumerate((truth_classes[rows], found_classes[wrong], truth_classes[missed]), 1):
        counts[:, column] = np.bincount(classes, minlength=num_classes)
    return counts


def missed_segments(classes: np.ndarray, iscrowd: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the result of `compare_segments` for an image without predicted segments.

    Args:
        classes: (T,) of the annotated segments, 0..K-1.
        iscrowd: (T,) bool.
        num_classes: K.
    """
    counts = np.zeros((num_classes, 4))
    counts[:, 3] = np.bincount(classes[~iscrowd], minlength=num_classes)
    return counts


def panoptic_metrics(counts: np.ndarray, class_names: Sequence[str], is_thing: Sequence[bool]) -> dict[str, float]:
    """Compute panoptic, segmentation and recognition quality: PQ = SQ · RQ.

    Args:
        counts: (K, 4), the sum of the results of `compare_segments` for all images.
        class_names: K names.
        is_thing: whether each class has countable objects; the other classes are stuff.

    Returns:
        In percent, 0..100: PQ, SQ and RQ, averaged over the classes that were annotated or predicted; the same over
        things (`PQ_th`) and over stuff (`PQ_st`); and for each class `PQ-<name>`, `SQ-<name>`, `RQ-<name>`. nan without
        any class, or for a class without segments.
    """
    qualities = _qualities(counts)
    has_segments = counts[:, 1:].sum(axis=1) > 0
    is_thing_class = np.asarray(is_thing, dtype=bool)
    metrics = {}
    for suffix, chosen in (
        ("", has_segments),
        ("_th", has_segments & is_thing_class),
        ("_st", has_segments & ~is_thing_class),
    ):
        for name, values in zip(("PQ", "SQ", "RQ"), qualities, strict=True):
            metrics[f"{name}{suffix}"] = float(values[chosen].mean()) if chosen.any() else float("nan")
    for number, class_name in enumerate(class_names):
        for name, values in zip(("PQ", "SQ", "RQ"), qualities, strict=True):
            metrics[f"{name}-{class_name}"] = float(values[number])
    return metrics


METRIC_NAMES = tuple(f"{name}{suffix}" for suffix in ("", "_th", "_st") for name in ("PQ", "SQ", "RQ"))
"""The names of the averages, in order."""


def _qualities(counts: np.ndarray) -> np.ndarray:
    """Compute PQ, SQ and RQ in percent, (3, K); nan for a class that was neither annotated nor predicted."""
    iou, pairs, wrong, missed = counts.T
    weights = pairs + 0.5 * wrong + 0.5 * missed
    with np.errstate(invalid="ignore"):
        recognition = pairs / weights
        # The average over no pairs is 0, as in the reference implementation.
        segmentation = np.where(weights > 0, iou / np.maximum(pairs, 1), np.nan)
        return 100 * np.stack([iou / weights, segmentation, recognition])


def _rows(ids: np.ndarray, segments: Sequence[Segment], kind: str) -> np.ndarray:
    """Return the number of each pixel's segment in `segments`, counted from 1; 0 is void."""
    numbers = dict(_numbered_segments(segments, kind))
    known_ids = np.array(sorted([VOID, *numbers]), dtype=np.int64)
    nearest = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    wrong = known_ids[nearest] != ids
    if wrong.any():
        raise ValueError(f"pixels have the id {ids[wrong][0]}, which belongs to no {kind} segment")
    return np.array([numbers.get(segment_id, 0) for segment_id in known_ids.tolist()], dtype=np.int64)[nearest]


def _numbered_segments(segments: Sequence[Segment], kind: str) -> Iterator[tuple[int, int]]:
    used_ids = {VOID}
    for number, segment in enumerate(segments, 1):
        if segment.id in used_ids:
            reason = "stands for void" if segment.id == VOID else "another segment has as well"
            raise ValueError(f"the {kind} segment at position {number - 1} has the id {segment.id}, which {reason}")
        used_ids.add(segment.id)
        yield segment.id, number
