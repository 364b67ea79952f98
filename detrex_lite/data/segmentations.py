"""Stores the masks of a data set, as polygons and run lengths in flat arrays, or in files that are read one by one."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..structures.masks import Segmentation
from .faults import DatasetError, size_fault
from .strings import PackedStrings

Size = tuple[int, int]


class PackedSegmentations:
    """The polygons and run lengths of T objects, in the order of their boxes.

    Polygons are stored as coordinates, not as masks: 25 points need 400 bytes, but a mask of 480x640 pixels needs three
    hundred thousand.

    Args:
        segmentations: segmentation of each object, as returned by `structures.checked_segmentation`.
    """

    def __init__(self, segmentations: Sequence[Segmentation]):
        polygons = [
            polygon for segmentation in segmentations if isinstance(segmentation, list) for polygon in segmentation
        ]
        self._coordinates = np.concatenate([*polygons, np.zeros(0)])
        self._ends = np.cumsum([0, *map(len, polygons)], dtype=np.int64)  # end of each polygon in the coordinates
        counts = [len(segmentation) if isinstance(segmentation, list) else 0 for segmentation in segmentations]
        self._polygons = np.cumsum([0, *counts], dtype=np.int64)  # end of each object in the polygons
        self._run_lengths = PackedStrings(
            [
                "" if isinstance(segmentation, list) else segmentation["counts"].decode("ascii")
                for segmentation in segmentations
            ]
        )

    def of_image(self, index: int, rows: slice, ids: np.ndarray, size: Size) -> list[Segmentation]:
        """Return the segmentations of the objects `rows.start` to `rows.stop`, whose image has the `size`."""
        return [self._of_object(row, size) for row in range(rows.start, rows.stop)]

    def select(self, indices: np.ndarray, rows: np.ndarray) -> "PackedSegmentations":
        """Return the segmentations of the objects `rows`."""
        return PackedSegmentations([self._of_object(row, (0, 0)) for row in rows.tolist()])

    def _of_object(self, row: int, size: Size) -> Segmentation:
        first, end = self._polygons[row : row + 2]
        if first == end:
            return {"size": [*size], "counts": self._run_lengths[row].encode("ascii")}
        edges = self._ends[first : end + 1]
        return [self._coordinates[a:b] for a, b in itertools.pairwise(edges)]


class PanopticFiles:
    """PNG files, one for each image, that store the segment of each pixel.

    Args:
        root: the folder of the files.
        file_names: file name for each image, relative to the folder.
    """

    def __init__(self, root: str, file_names: Sequence[str]):
        self.root = root
        self._file_names = PackedStrings(file_names)

    def of_image(self, index: int, rows: slice, ids: np.ndarray, size: Size) -> "PanopticSegments":
        """Return the segments `ids` of image `index`; the file is read when their masks are accessed."""
        return PanopticSegments(os.path.join(self.root, self._file_names[index]), ids, size)

    def select(self, indices: np.ndarray, rows: np.ndarray) -> "PanopticFiles":
        """Return the files of the images `indices`."""
        return PanopticFiles(self.root, [self._file_names[index] for index in indices.tolist()])


class PanopticSegments:
    """The segments of one image. Its PNG file is read when the masks are accessed.

    Args:
        path: path of the file, in COCO's panoptic format: the id of a pixel's segment is red + 256 green + 65536 blue,
            and 0 for pixels without a segment.
        ids: (n,) ids of the segments.
        size: (height, width) of the image in pixels.
    """

    def __init__(self, path: str, ids: np.ndarray, size: Size):
        self.path = path
        self.ids = np.asarray(ids)
        self.size = size

    def label_map(self) -> Tensor:
        """Return (H, W) int32, the id of each pixel's segment.

        Raises:
            DatasetError: when the file is missing, is not an RGB image, or differs in size from the image.
        """
        try:
            with Image.open(self.path) as file:
                if file.mode != "RGB":
                    raise DatasetError(
                        f"panoptic segmentation {self.path} has pixels in mode {file.mode!r}: the ids of segments "
                        "are in the three channels of RGB"
                    )
                pixels = np.asarray(file)
        except FileNotFoundError:
            raise DatasetError(f"panoptic segmentation {self.path} does not exist") from None
        except DatasetError:
            raise
        except Exception as error:  # Pillow raises many types for broken files
            reason = str(error) or type(error).__name__
            raise DatasetError(f"panoptic segmentation {self.path} cannot be read: {reason}") from error
        fault = size_fault((pixels.shape[0], pixels.shape[1]), self.size)
        if fault:
            raise DatasetError(f"panoptic segmentation {self.path}: {fault}")
        red, green, blue = torch.from_numpy(pixels.astype(np.int32)).unbind(-1)
        return red + 256 * green + 65536 * blue

    @property
    def tensor(self) -> Tensor:
        """The masks of the segments, (n, H, W) bool.

        Raises:
            DatasetError: when the file cannot be read (see `label_map`), or a segment has no pixels.
        """
        labels = self.label_map()
        masks = torch.empty((len(self.ids), *self.size), dtype=torch.bool)
        for segment_id, mask in zip(self.ids.tolist(), masks, strict=True):
            torch.eq(labels, segment_id, out=mask)
            if not mask.any():
                raise DatasetError(f"panoptic segmentation {self.path}: no pixel belongs to segment {segment_id}")
        return masks

    def __getitem__(self, item: Any) -> "PanopticSegments":
        """Return the segments selected by a slice, or by a bool or int64 tensor."""
        return PanopticSegments(self.path, self.ids[np.asarray(item) if isinstance(item, Tensor) else item], self.size)

    def __len__(self) -> int:
        return len(self.ids)
