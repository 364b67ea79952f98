"""The data set class, which stores the annotations of many images in a few flat arrays."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .faults import DatasetError
from .segmentations import PackedSegmentations, PanopticFiles
from .strings import PackedStrings


class DetectionDataset:
    """Images with boxes, in packed read-only arrays. Returned by `load_coco`, `load_voc` and similar functions.

    There are N images and T boxes in total; the boxes of image i are the rows `offsets[i]` to `offsets[i + 1]`.

    Attributes:
        name: name of the data set in messages.
        class_names: K names.
        category_ids: K ids; class k has the id `category_ids[k]` in the annotation file and in predictions.
        image_root: folder that file names are relative to.
        image_ids: (N,) int64.
        heights, widths: (N,) int32, in pixels.
        offsets: (N + 1,) int64.
        boxes: (T, 4) float32, xyxy in pixels, inside the image.
        classes: (T,) int32 in 0..K-1.
        iscrowd: (T,) bool: regions that are left out of training and ignored in evaluation.
        areas: (T,) float32, in square pixels.
        annotation_ids: (T,) int64.
        has_annotations: False for images without annotations, which can only be used for prediction.
        segmentations: the masks of the boxes; None without masks.
        is_thing: (K,) bool, False for stuff classes such as sky, which have at most one object in an image.
        dropped: reason -> number of boxes that were left out.
        clipped: number of boxes that extended beyond their image and were clipped.
    """

    def __init__(
        self,
        *,
        name: str,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        image_root: str,
        file_names: PackedStrings,
        image_ids: np.ndarray,
        heights: np.ndarray,
        widths: np.ndarray,
        offsets: np.ndarray,
        boxes: np.ndarray,
        classes: np.ndarray,
        iscrowd: np.ndarray,
        areas: np.ndarray,
        annotation_ids: np.ndarray,
        has_annotations: bool,
        segmentations: PackedSegmentations | PanopticFiles | None = None,
        is_thing: Sequence[bool] | np.ndarray | None = None,
        dropped: Mapping[str, int],
        clipped: int,
    ):
        self.name = name
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.image_root = image_root
        self.image_ids = _frozen(image_ids, np.int64)
        self.heights = _frozen(heights, np.int32)
        self.widths = _frozen(widths, np.int32)
        self.offsets = _frozen(offsets, np.int64)
        self.boxes = _frozen(boxes, np.float32)
        self.classes = _frozen(classes, np.int32)
        self.iscrowd = _frozen(iscrowd, np.bool_)
        self.areas = _frozen(areas, np.float32)
        self.annotation_ids = _frozen(annotation_ids, np.int64)
        self.has_annotations = has_annotations
        self.segmentations = segmentations
        self.is_thing = _frozen(np.asarray([True] * len(self.class_names) if is_thing is None else is_thing), np.bool_)
        self.dropped = dict(dropped)
        self.clipped = clipped
        self._file_names = file_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_boxes(self) -> int:
        """The number of boxes, crowds included."""
        return int(self.offsets[-1])

    def objects_per_image(self) -> np.ndarray:
        """Return (N,) int64: the number of boxes of each image that are used for training (without crowds)."""
        before = np.concatenate([[0], np.cumsum(~self.iscrowd)])
        return before[self.offsets[1:]] - before[self.offsets[:-1]]

    def file_name(self, index: int) -> str:
        """Return the path of image `index`."""
        return os.path.join(self.image_root, self._file_names[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return image `index` with its boxes.

        Returns:
            `file_name`, `image_id`, `height`, `width`, `boxes` (T, 4) float32 xyxy in pixels, `classes` (T,)
            int64, `iscrowd` (T,) bool, `area` (T,) float32, `annotation_ids` (T,) int64. With masks also
            `segmentations`, which `structures.as_masks` converts to a tensor: a list of T polygons or run lengths, or
            `PanopticSegments`.
        """
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a data set of {len(self)}")
        index %= len(self)
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        record: dict[str, Any] = {
            "file_name": self.file_name(index),
            "image_id": int(self.image_ids[index]),
            "height": int(self.heights[index]),
            "width": int(self.widths[index]),
            "boxes": torch.tensor(self.boxes[rows]),
            "classes": torch.tensor(self.classes[rows], dtype=torch.int64),
            "iscrowd": torch.tensor(self.iscrowd[rows]),
            "area": torch.tensor(self.areas[rows]),
            "annotation_ids": torch.tensor(self.annotation_ids[rows]),
        }
        if self.segmentations is not None:
            size = record["height"], record["width"]
            record["segmentations"] = self.segmentations.of_image(index, rows, self.annotation_ids[rows], size)
        return record

    def __len__(self) -> int:
        return len(self.image_ids)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"DetectionDataset({self.name!r}, {len(self)} images, {self.num_boxes} boxes, {self.num_classes} classes)"
        )


def _frozen(array: np.ndarray, dtype: Any) -> np.ndarray:
    array = np.ascontiguousarray(array, dtype=dtype)
    array.flags.writeable = False
    return array


def subset(dataset: DetectionDataset, limit: int) -> DetectionDataset:
    """Return the first `limit` images of a data set (all if it has fewer), e.g. to test whether a model overfits them.

    Raises:
        DatasetError: when `limit` is below 1.
    """
    if limit < 1:
        raise DatasetError(f"limit must be at least 1 image, got {limit}")
    return select_images(dataset, np.arange(min(limit, len(dataset))))


def select_images(dataset: DetectionDataset, indices: np.ndarray, name: str | None = None) -> DetectionDataset:
    """Return a data set with some images of a data set and their boxes.

    The counts of dropped and clipped boxes are not copied, because they count all images.

    Args:
        dataset: the data set.
        indices: (n,) integers, the positions of the images in the order of the result.
        name: name of the result; None keeps the name of `dataset`.
    """
    indices = np.asarray(indices, dtype=np.int64)
    starts, counts = dataset.offsets[indices], np.diff(dataset.offsets)[indices]
    ends = np.cumsum(counts)
    rows = np.arange(int(counts.sum())) + np.repeat(starts - (ends - counts), counts)
    return DetectionDataset(
        name=name or dataset.name,
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        image_root=dataset.image_root,
        file_names=dataset._file_names.select(indices),
        image_ids=dataset.image_ids[indices],
        heights=dataset.heights[indices],
        widths=dataset.widths[indices],
        offsets=np.concatenate([[0], ends]),
        boxes=dataset.boxes[rows],
        classes=dataset.classes[rows],
        iscrowd=dataset.iscrowd[rows],
        areas=dataset.areas[rows],
        annotation_ids=dataset.annotation_ids[rows],
        has_annotations=dataset.has_annotations,
        segmentations=None if dataset.segmentations is None else dataset.segmentations.select(indices, rows),
        is_thing=dataset.is_thing,
        dropped={},
        clipped=0,
    )


def images_with_objects(dataset: DetectionDataset, number: int) -> DetectionDataset:
    """Return the first `number` images that have an object for training; fewer if the data set has fewer.

    Raises:
        DatasetError: when `number` is below 1, or no image has an object.
    """
    if number < 1:
        raise DatasetError(f"number must be at least 1 image, got {number}")
    indices = np.flatnonzero(dataset.objects_per_image())[:number]
    if not len(indices):
        raise DatasetError(f"no image of data set {dataset.name!r} has an object")
    return select_images(dataset, indices)
