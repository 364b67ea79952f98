"""Packs annotations, which were read from any format, into the arrays of a `DetectionDataset`."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..structures.masks import Segmentation, checked_segmentation
from .dataset import DetectionDataset
from .faults import (
    DROP_REASONS,
    MAX_SIDE,
    DatasetError,
    FaultLog,
    apply_box_rules,
    check_class_names,
    flag,
    integer,
    real,
    shown,
)
from .segmentations import PackedSegmentations, PanopticFiles
from .strings import PackedStrings

logger = logging.getLogger(__name__)


@dataclass
class AnnotationTable:
    """Images and boxes in reading order, before the box rules.

    Attributes:
        file_names: file name of each image, relative to the image folder.
        image_ids: id of each image.
        sizes: (height, width) of each image in pixels.
        owners: for each box, the position of its image.
        boxes: xyxy in pixels.
        classes: class of each box, in 0..K-1.
        iscrowd: whether each box is a crowd.
        areas: area of each box in square pixels. NaN, infinite and negative values are replaced by width times height;
            all of them except NaN are reported.
        annotation_ids: id of each box.
        segmentations: segmentation of each box, as returned by `checked_segmentation`; None when there are no masks,
            or when they are in separate files.
        describe: returns the file and the annotation of box number `row`, for messages.
    """

    describe: Callable[[int], str]
    file_names: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    boxes: list[Sequence[float]] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    iscrowd: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    annotation_ids: list[int] = field(default_factory=list)
    segmentations: list[Segmentation] | None = None

    def add_image(self, file_name: str, image_id: int, size: tuple[int, int]) -> None:
        self.file_names.append(file_name)
        self.image_ids.append(image_id)
        self.sizes.append(size)

    def add_box(
        self,
        owner: int,
        box: Sequence[float],
        *,
        class_index: int,
        iscrowd: bool,
        area: float,
        annotation_id: int,
        segmentation: Segmentation | None = None,
    ) -> None:
        self.owners.append(owner)
        self.boxes.append(box)
        self.classes.append(class_index)
        self.iscrowd.append(iscrowd)
        self.areas.append(area)
        self.annotation_ids.append(annotation_id)
        if self.segmentations is not None:
            assert segmentation is not None
            self.segmentations.append(segmentation)


def pack(
    table: AnnotationTable,
    *,
    name: str,
    where: str | None = None,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    image_root: str = "",
    has_annotations: bool,
    panoptic: PanopticFiles | None = None,
    is_thing: Sequence[bool] | None = None,
    log: FaultLog | None = None,
) -> DetectionDataset:
    """Apply the box rules and pack the table; the boxes of an image keep their order.

    Args:
        where: the annotation file or folder, for messages; None uses the name of the data set.
        has_annotations: whether images without boxes have no objects, rather than no annotations.
        panoptic: the files with the masks of each image, by annotation id.
        is_thing: whether each class is a thing; None when all classes are things.
        log: collects the faults; None raises an error at the first fault.

    Raises:
        DatasetError: when the log is strict and there are no images.
    """
    where, log = where or name, log or FaultLog()
    if not table.file_names:
        log.error("no images", where, "there is not one image in it")
    raw = np.asarray(table.boxes, dtype=np.float64).reshape(-1, 4)
    owners = np.asarray(table.owners, dtype=np.int64)
    heights, widths = np.asarray(table.sizes, dtype=np.int64).reshape(-1, 2).T
    boxes, codes, clipped = apply_box_rules(raw, heights[owners], widths[owners])
    _report(table, raw, codes, clipped, image_root, log)
    if not log.strict:
        _report_duplicates(table, raw, codes, image_root, log)

    keep = np.flatnonzero(codes == 0)
    keep = keep[np.argsort(owners[keep], kind="stable")]
    boxes = boxes[keep]
    areas = np.asarray(table.areas, dtype=np.float64)
    _report_areas(table, areas, where, log)
    areas = areas[keep]
    usable = np.isfinite(areas) & (areas >= 0)
    segmentations: PackedSegmentations | PanopticFiles | None = panoptic
    if table.segmentations is not None:
        segmentations = PackedSegmentations([table.segmentations[row] for row in keep.tolist()])
    areas = np.where(usable, areas, (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1))
    return DetectionDataset(
        name=name,
        class_names=class_names,
        category_ids=category_ids,
        image_root=image_root,
        file_names=PackedStrings(table.file_names),
        image_ids=np.asarray(table.image_ids, dtype=np.int64),
        heights=heights,
        widths=widths,
        offsets=np.searchsorted(owners[keep], np.arange(len(table.file_names) + 1)),
        boxes=boxes,
        classes=np.asarray(table.classes, dtype=np.int64)[keep],
        iscrowd=np.asarray(table.iscrowd, dtype=bool)[keep],
        areas=areas,
        annotation_ids=np.asarray(table.annotation_ids, dtype=np.int64)[keep],
        has_annotations=has_annotations,
        segmentations=segmentations,
        is_thing=is_thing,
        dropped={
            reason: int((codes == code).sum()) for code, reason in enumerate(DROP_REASONS, 1) if (codes == code).any()
        },
        clipped=int(clipped.sum()),
    )


def _report(
    table: AnnotationTable, boxes: np.ndarray, codes: np.ndarray, clipped: np.ndarray, image_root: str, log: FaultLog
) -> None:
    """Log every box that is left out or clipped."""
    for row in np.flatnonzero((codes != 0) | clipped).tolist():
        reason = DROP_REASONS[codes[row] - 1] if codes[row] else "partly outside the image"
        height, width = table.sizes[table.owners[row]]
        corners = ", ".join(f"{value:g}" for value in boxes[row])
        log.repaired(
            f"box {reason}",
            table.describe(row),
            f"the box ({corners}) (x0, y0, x1, y1) is {reason} (image {height} high, {width} wide)",
            image=os.path.join(image_root, table.file_names[table.owners[row]]),
            box=boxes[row].tolist(),
        )


def _report_areas(table: AnnotationTable, areas: np.ndarray, where: str, log: FaultLog) -> None:
    """Log every invalid area."""
    rows = np.flatnonzero((areas < 0) | np.isinf(areas)).tolist()
    for row in rows:
        log.repaired("area", table.describe(row), f"its area is {areas[row]:g}: the area of its box is used")
    if rows and log.strict:
        logger.warning(
            "%s: %d annotations have a negative or infinite area (the first is %s): the areas of their boxes are used.",
            where,
            len(rows),
            table.describe(rows[0]),
        )


def _report_duplicates(
    table: AnnotationTable, boxes: np.ndarray, codes: np.ndarray, image_root: str, log: FaultLog
) -> None:
    """Log every usable box that repeats another of the same class in the same image."""
    first: dict[tuple, int] = {}
    for row in np.flatnonzero(codes == 0).tolist():
        key = (table.owners[row], table.classes[row], *boxes[row].tolist())
        if key in first:
            message = f"the same class and box as {table.describe(first[key])}"
            image = os.path.join(image_root, table.file_names[table.owners[row]])
            log.repaired("duplicate box", table.describe(row), message, image=image, box=boxes[row].tolist())
        else:
            first[key] = row


def from_records(
    records: Sequence[Mapping[str, Any]],
    *,
    name: str,
    class_names: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> DetectionDataset:
    """Build a data set from records, for annotations in any format that the caller has read.

    Args:
        records: one mapping per image: `file_name`, `height`, `width` (pixels) and, for annotated images,
            `boxes` ((T, 4) array-like, xyxy in pixels) and `classes` ((T,) in 0..K-1); optional `iscrowd` and
            `area` (T,), and `segmentations`, for each box COCO's polygons or run lengths, in all records or in none.
        name: name of the data set in messages.
        class_names: K names.
        category_ids: K ids for predictions that are written as COCO JSON; None for 1..K.

    Image and annotation ids count from 1.

    Raises:
        DatasetError: when a key is missing, lengths differ, a value has a wrong type or is out of range, or there are
            no records.
    """
    names = check_class_names(class_names)
    assert names is not None
    ids = tuple(category_ids) if category_ids is not None else tuple(range(1, len(names) + 1))
    if len(ids) != len(names):
        raise DatasetError(f"{name}: {len(ids)} category_ids for {len(names)} class_names")
    with_masks = any("segmentations" in record for record in records)
    table = AnnotationTable(lambda row: f"{name}: {labels[row]}", segmentations=[] if with_masks else None)
    labels: list[str] = []
    for position, record in enumerate(records):
        where = f"{name}: record {position}"
        missing = [key for key in ("file_name", "height", "width") if key not in record]
        if missing:
            raise DatasetError(f"{where} has no {' and no '.join(map(repr, missing))}")
        try:
            height, width = (integer(record[key], key, low=1, high=MAX_SIDE) for key in ("height", "width"))
            boxes = _boxes_of(record)
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from None
        table.add_image(str(record["file_name"]), position + 1, (height, width))
        columns = {
            "classes": np.asarray(record.get("classes", ())).tolist(),
            "iscrowd": np.asarray(record.get("iscrowd", np.zeros(len(boxes), bool))).tolist(),
            "area": np.asarray(record.get("area", np.full(len(boxes), np.nan))).tolist(),
        }
        if with_masks:
            columns["segmentations"] = record.get("segmentations", ())
        for key, column in columns.items():
            if len(column) != len(boxes):
                raise DatasetError(f"{where} has {len(boxes)} boxes, but {len(column)} {key}")
        for row, box in enumerate(boxes.tolist()):
            labels.append(f"record {position} ({record['file_name']}), box {row}")
            try:
                table.add_box(
                    position,
                    box,
                    class_index=integer(columns["classes"][row], "classes", low=0, high=len(names) - 1),
                    iscrowd=flag(columns["iscrowd"][row], "iscrowd"),
                    area=real(columns["area"][row], "area"),
                    annotation_id=len(table.owners) + 1,
                    segmentation=(
                        checked_segmentation(columns["segmentations"][row], (height, width)) if with_masks else None
                    ),
                )
            except ValueError as error:
                raise DatasetError(f"{where}, box {row}: {error}") from None
    return pack(
        table,
        name=name,
        class_names=names,
        category_ids=ids,
        has_annotations=any("boxes" in record for record in records),
    )


def _boxes_of(record: Mapping[str, Any]) -> np.ndarray:
    """Return the boxes of a record, (T, 4) float64."""
    value = record.get("boxes", ())
    try:
        boxes = np.asarray(value)
    except ValueError:  # rows of several lengths
        boxes = np.asarray(None)
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.dtype.kind not in "iuf" or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"'boxes' must be rows of four numbers (x0, y0, x1, y1), got {shown(value)}")
    return boxes.astype(np.float64)
