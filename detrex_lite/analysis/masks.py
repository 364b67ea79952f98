"""Masks of many objects as run lengths, which take a few hundred bytes each."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..structures import as_masks, checked_segmentation


class Masks:
    """The masks of n objects or detections, in images of any sizes.

    Args:
        counts: (n,) compressed run lengths of COCO, as text.
        sizes: (n, 2) height and width of the image of each mask.
    """

    def __init__(self, counts: Iterable[str] | np.ndarray, sizes: np.ndarray):
        self.counts = np.asarray(counts if isinstance(counts, np.ndarray) else list(counts), dtype=object)
        self.sizes = np.asarray(sizes, dtype=np.int32).reshape(-1, 2)

    @classmethod
    def from_run_lengths(cls, run_lengths: Iterable[Mapping[str, Any]]) -> "Masks":
        """Masks from run lengths as in COCO's files, or as `detrex_lite.structures.run_lengths` returns.

        Raises:
            ValueError: when run lengths are malformed.
        """
        counts, sizes = [], []
        for row, run_length in enumerate(run_lengths):
            try:
                if not isinstance(run_length, Mapping) or "size" not in run_length:
                    raise ValueError("run lengths must be a dict with 'size' and 'counts'")
                checked = checked_segmentation(run_length, run_length["size"])
            except ValueError as error:
                raise ValueError(f"mask {row}: {error}") from None
            assert isinstance(checked, dict)  # polygons are lists
            counts.append(checked["counts"].decode("ascii"))
            sizes.append(checked["size"])
        return cls(counts, np.array(sizes))

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: np.ndarray) -> "Masks":
        """The masks in the selected rows, given as indices or as a bool mask."""
        return Masks(self.counts[rows], self.sizes[rows])

    @cached_property
    def areas(self) -> np.ndarray:
        """(n,) float64, the number of pixels of each mask."""
        # One by one, because pycocotools raises an OverflowError for more than 255 masks.
        return np.array([coco_mask.area(run_length) for run_length in self.run_lengths()], dtype=np.float64)

    def run_lengths(self) -> list[dict[str, Any]]:
        """The masks in pycocotools' form: n dicts with `size` and `counts`."""
        return [
            {"size": size, "counts": counts}
            for size, counts in zip(self.sizes.tolist(), self.counts.tolist(), strict=True)
        ]

    def pixels(self, row: int) -> np.ndarray:
        """(H, W) bool, one mask as an array."""
        height, width = self.sizes[row].tolist()
        return as_masks([{"size": [height, width], "counts": self.counts[row]}], (height, width))[0].numpy()


def mask_ious(detections: Masks, objects: Masks, iscrowd: np.ndarray) -> np.ndarray:
    """The IoU of each mask of detections with each mask of objects, which must have one size.

    Args:
        detections: D masks, at least one.
        objects: T masks, at least one.
        iscrowd: (T,) bool.

    Returns:
        (D, T) float64; for crowds the fraction of the detection inside the crowd.
    """
    return np.asarray(coco_mask.iou(detections.run_lengths(), objects.run_lengths(), iscrowd.tolist()))
