"""The objects and the detections of a whole data set as flat arrays, on which all functions of this package work.

Tables with masks are compared by their masks, others by their boxes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import record_run_lengths
from .masks import Masks

COCO_MAX_DETECTIONS = 100
"""The maximum number of detections of one class in one image, as in COCO's AP."""


@dataclass(frozen=True)
class Objects:
    """The annotated objects of N images.

    Attributes:
        image: (T,) int64, the index of the object's image, 0..N-1.
        boxes: (T, 4) float64, xyxy in pixels.
        classes: (T,) int64, 0..K-1.
        iscrowd: (T,) bool; crowds are regions in which detections are ignored.
        areas: (T,) float64, in square pixels, which decide whether an object is small, medium or large.
        num_images: N.
        num_classes: K.
        masks: T masks; None to compare boxes.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    iscrowd: np.ndarray
    areas: np.ndarray
    num_images: int
    num_classes: int
    masks: Masks | None = None

    def __post_init__(self) -> None:
        _check_rows("objects", self.image, self.boxes, self.classes, self.iscrowd, self.areas, self.masks)
        _check_range("objects", "image", self.image, self.num_images)
        _check_range("objects", "classes", self.classes, self.num_classes)

    def __len__(self) -> int:
        return len(self.image)

    def per_class(self) -> np.ndarray:
        """(K,) int64, the number of objects of each class, crowds left out."""
        return np.bincount(self.classes[~self.iscrowd], minlength=self.num_classes)

    def per_image(self) -> np.ndarray:
        """(N,) int64, the number of objects in each image, crowds left out."""
        return np.bincount(self.image[~self.iscrowd], minlength=self.num_images)


@dataclass(frozen=True)
class Detections:
    """The detections in N images.

    Attributes:
        image: (D,) int64, the index of the detection's image, 0..N-1.
        boxes: (D, 4) float64, xyxy in pixels.
        classes: (D,) int64, 0..K-1.
        scores: (D,) float64.
        masks: D masks; None to compare boxes.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masks: Masks | None = None

    def __post_init__(self) -> None:
        _check_rows("detections", self.image, self.boxes, self.classes, self.scores, self.masks)

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: np.ndarray) -> "Detections":
        """The detections in the selected rows, given as indices or as a bool mask."""
        masks = None if self.masks is None else self.masks[rows]
        return Detections(self.image[rows], self.boxes[rows], self.classes[rows], self.scores[rows], masks)

    @property
    def areas(self) -> np.ndarray:
        """(D,) float64, in square pixels, of the masks, or else of the boxes."""
        return box_areas(self.boxes) if self.masks is None else self.masks.areas

    def at_most(self, number: int = COCO_MAX_DETECTIONS) -> "Detections":
        """The `number` detections with the highest scores of each class in each image, in the order of the rows."""
        order = np.lexsort((-self.scores, self.classes, self.image))
        image, classes = self.image[order], self.classes[order]
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (image[1:] != image[:-1]) | (classes[1:] != classes[:-1])
        places = np.arange(len(order))
        rank = places - np.maximum.accumulate(np.where(begins, places, 0))
        return self[np.sort(order[rank < number])]


def make_objects(
    image: Sequence[int] | np.ndarray,
    boxes: Sequence[Sequence[float]] | np.ndarray,
    classes: Sequence[int] | np.ndarray,
    *,
    num_images: int,
    num_classes: int,
    iscrowd: Sequence[bool] | np.ndarray | None = None,
    areas: Sequence[float] | np.ndarray | None = None,
    masks: Masks | Iterable[Mapping[str, Any]] | None = None,
) -> Objects:
    """`Objects` from lists or arrays.

    Args:
        image, boxes, classes, num_images, num_classes: see `Objects`.
        iscrowd: defaults to False.
        areas: default to the areas of the masks, or without masks to those of the boxes.
        masks: run lengths with `size` and `counts`, as in COCO's files; None to compare boxes.

    Raises:
        ValueError: when the arrays do not have the same length, an image or a class is out of range, or run lengths
            are malformed.
    """
    masks = _as_masks(masks)
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if areas is None:
        areas = box_areas(corners) if masks is None else masks.areas
    return Objects(
        np.asarray(image, dtype=np.int64),
        corners,
        np.asarray(classes, dtype=np.int64),
        np.zeros(len(corners), dtype=bool) if iscrowd is None else np.asarray(iscrowd, dtype=bool),
        np.asarray(areas, dtype=np.float64),
        num_images,
        num_classes,
        masks,
    )


def make_detections(
    image: Sequence[int] | np.ndarray,
    boxes: Sequence[Sequence[float]] | np.ndarray,
    classes: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    masks: Masks | Iterable[Mapping[str, Any]] | None = None,
) -> Detections:
    """`Detections` from lists or arrays.

    Args:
        image, boxes, classes, scores: see `Detections`.
        masks: run lengths with `size` and `counts`, as in COCO's files; None to compare boxes.

    Raises:
        ValueError: when the arrays do not have the same length, or run lengths are malformed.
    """
    return Detections(
        np.asarray(image, dtype=np.int64),
        np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        np.asarray(classes, dtype=np.int64),
        np.asarray(scores, dtype=np.float64),
        _as_masks(masks),
    )


def objects_of(dataset: Any, *, masks: bool = False) -> Objects:
    """The annotations of a `DetectionDataset`, or of any sequence of its records; images keep their order.

    Args:
        dataset: the data set.
        masks: whether to include the masks, to compare masks.

    Raises:
        ValueError: when masks are asked for that the records do not have.
    """
    records = [dataset[index] for index in range(len(dataset))]
    columns = {
        name: np.concatenate(
            [np.zeros((0, 4) if name == "boxes" else 0), *(_array(record[name]) for record in records)]
        )
        for name in ("boxes", "classes", "iscrowd", "area")
    }
    return make_objects(
        np.repeat(np.arange(len(records)), [len(record["classes"]) for record in records]),
        columns["boxes"],
        columns["classes"],
        num_images=len(records),
        num_classes=dataset.num_classes,
        iscrowd=columns["iscrowd"],
        areas=columns["area"],
        masks=_masks_of(records) if masks else None,
    )


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """(T,) areas of boxes (T, 4) xyxy; 0 for a box with a negative width or height."""
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def _masks_of(records: Sequence[dict[str, Any]]) -> Masks:
    if any("segmentations" not in record for record in records):
        raise ValueError("the data set has no masks: read it with masks=True, or compare boxes")
    run_lengths = [run_length for record in records for run_length in record_run_lengths(record)]
    counts = [run_length["counts"] for run_length in run_lengths]
    return Masks(counts, np.array([run_length["size"] for run_length in run_lengths]))


def _as_masks(masks: Masks | Iterable[Mapping[str, Any]] | None) -> Masks | None:
    return masks if masks is None or isinstance(masks, Masks) else Masks.from_run_lengths(masks)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _check_rows(kind: str, image: np.ndarray, *columns: np.ndarray | Masks | None) -> None:
    for column in columns:
        if column is not None and len(column) != len(image):
            raise ValueError(f"{kind} need arrays of one length, got {len(image)} images and {len(column)} rows")


def _check_range(kind: str, name: str, values: np.ndarray, end: int) -> None:
    wrong = values[(values < 0) | (values >= end)]
    if wrong.size:
        raise ValueError(f"{kind} have {name}={wrong[0]}, which is not in 0..{end - 1}")
