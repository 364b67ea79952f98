"""Panoptic quality: how well segments that share an image without overlap agree with the annotated ones.

Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. Rules of the reference implementation (panopticapi) that
the paper leaves open are named where they are.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

VOID = 0
"""The id of pixels that belong to no segment."""


class Segment(NamedTuple):
    """A segment of an image: the pixels that have its id.

    Attributes:
        id: not `VOID`, and unlike those of the image's other segments.
        class_index: 0..K-1.
        iscrowd: whether it is a region of many objects that nobody told apart; only annotated ones are.
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
    """Match the segments of one image with the annotated ones.

    A pair matches when it is of one class and its IoU is above (not at) one half, which no other pair of either
    segment can reach. Void pixels of the annotation are taken out of a found segment before its IoU is computed; crowds
    match nothing. A found segment without a match is wrong unless more than half of it is void or in crowds of its
    class (the reference implementation adds the two up). Crowds are never missed.

    Args:
        truth_ids, found_ids: (H, W) integers, the id of each pixel's segment or `VOID`.
        truth, found: the segments. Those of `truth` may have no pixel, and are missed then.
        num_classes: K.

    Returns:
        (K, 4) float64, of each class: the sum of the matched pairs' IoU, how many pairs there are, how many found
        segments are wrong, and how many annotated ones are missed.

    Raises:
        ValueError: when the two have different sizes, an id is not that of a segment, two segments have one id, or a
            found one has no pixel.
    """
    if truth_ids.shape != found_ids.shape:
        (height, width), (other_height, other_width) = found_ids.shape, truth_ids.shape
        raise ValueError(
            f"the segments found are for {height} x {width} pixels (height x width), those of the annotation for "
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
            raise ValueError(f"segment {segment.id} was found, but no pixel has its id")
    void, overlap = overlap[0, 1:], overlap[1:, 1:]
    truth_classes = np.array([one.class_index for one in truth], dtype=np.int64)
    found_classes = np.array([one.class_index for one in found], dtype=np.int64)
    crowd = np.array([one.iscrowd for one in truth], dtype=bool)
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
    """What `compare_segments` gives for an image in which nothing was found.

    Args:
        classes: (T,) of the annotated segments, 0..K-1.
        iscrowd: (T,) bool.
        num_classes: K.
    """
    counts = np.zeros((num_classes, 4))
    counts[:, 3] = np.bincount(classes[~iscrowd], minlength=num_classes)
    return counts


def panoptic_metrics(counts: np.ndarray, class_names: Sequence[str], is_thing: Sequence[bool]) -> dict[str, float]:
    """Panoptic, segmentation and recognition quality: PQ = SQ · RQ.

    Args:
        counts: (K, 4), the sum of what `compare_segments` gave for all images.
        class_names: K names.
        is_thing: which classes have countable objects; the others are stuff.

    Returns:
        In percent, 0..100: PQ, SQ and RQ, means over the classes that were annotated or found; the same over things
        (`PQ_th`) and over stuff (`PQ_st`); and for each class `PQ-<name>`, `SQ-<name>`, `RQ-<name>`. nan where there is
        no class, or nothing of it.
    """
    qualities = _qualities(counts)
    seen = counts[:, 1:].sum(axis=1) > 0
    things = np.asarray(is_thing, dtype=bool)
    metrics = {}
    for suffix, chosen in (("", seen), ("_th", seen & things), ("_st", seen & ~things)):
        for name, values in zip(("PQ", "SQ", "RQ"), qualities, strict=True):
            metrics[f"{name}{suffix}"] = float(values[chosen].mean()) if chosen.any() else float("nan")
    for number, class_name in enumerate(class_names):
        for name, values in zip(("PQ", "SQ", "RQ"), qualities, strict=True):
            metrics[f"{name}-{class_name}"] = float(values[number])
    return metrics


METRIC_NAMES = tuple(f"{name}{suffix}" for suffix in ("", "_th", "_st") for name in ("PQ", "SQ", "RQ"))
"""The names of the means, in their order."""


def _qualities(counts: np.ndarray) -> np.ndarray:
    """(3, K): PQ, SQ and RQ in percent; nan for a class that was neither annotated nor found."""
    iou, pairs, wrong, missed = counts.T
    weights = pairs + 0.5 * wrong + 0.5 * missed
    with np.errstate(invalid="ignore"):
        recognition = pairs / weights
        # The mean over no pair counts as 0, as in the reference implementation.
        segmentation = np.where(weights > 0, iou / np.maximum(pairs, 1), np.nan)
        return 100 * np.stack([iou / weights, segmentation, recognition])


def _rows(ids: np.ndarray, segments: Sequence[Segment], kind: str) -> np.ndarray:
    """The place of each pixel's segment in `segments`, counted from 1; 0 is void."""
    places = dict(_places(segments, kind))
    known = np.array(sorted([VOID, *places]), dtype=np.int64)
    nearest = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    wrong = known[nearest] != ids
    if wrong.any():
        raise ValueError(f"pixels have the id {ids[wrong][0]}, of which there is no {kind} segment")
    return np.array([places.get(one, 0) for one in known.tolist()], dtype=np.int64)[nearest]


def _places(segments: Sequence[Segment], kind: str) -> Iterator[tuple[int, int]]:
    taken = {VOID}
    for place, segment in enumerate(segments, 1):
        if segment.id in taken:
            reason = "stands for void" if segment.id == VOID else "another one has, too"
            raise ValueError(f"the {kind} segment at position {place - 1} has the id {segment.id}, which {reason}")
        taken.add(segment.id)
        yield segment.id, place
