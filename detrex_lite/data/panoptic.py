"""COCO panoptic files (https://cocodataset.org/#format-data): each pixel belongs to one segment, a thing or stuff."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .coco import (
    Malformed,
    area_of,
    box_of,
    class_of,
    integer_of,
    read_categories,
    read_images,
    read_json,
    skipping,
    value_of,
)
from .dataset import DetectionDataset
from .faults import FaultLog, check_class_names, flag, integer, name_of, shown
from .packing import AnnotationTable, pack
from .segmentations import PanopticFiles


def load_coco_panoptic(
    annotations: str | Path,
    image_root: str | Path,
    panoptic_root: str | Path | None = None,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
) -> DetectionDataset:
    """Load a COCO panoptic JSON file and its PNG files; every segment is an object with a box and a mask.

    Class k is the k-th category by id, things and stuff together; the data set's `is_thing` distinguishes them.
    `annotation_ids` are the ids of segments, which are unique within an image. Segments with `iscrowd` are crowds. The
    file is read once per process, and the PNG file of an image when its masks are read.

    Args:
        annotations: the JSON file.
        image_root: the folder that `file_name` of images is relative to.
        panoptic_root: the folder of the PNG files; None for the folder next to the JSON file with the same stem.
        name: name of the data set in messages; None for the file's stem.
        class_names: expected class names in the file by category id; None accepts any.

    Raises:
        DatasetError: when a file or folder is missing, or an entry is malformed or contradicts another; it names the
            file, the image and the segment.
    """
    path = Path(os.path.expanduser(annotations))
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    masks = path.with_suffix("") if panoptic_root is None else Path(os.path.expanduser(panoptic_root))
    root = str(Path(os.path.expanduser(image_root)))
    return _load_coco_panoptic(str(path), root, str(masks), name, check_class_names(class_names), stamp)


@lru_cache(maxsize=8)
def _load_coco_panoptic(
    annotations: str,
    image_root: str,
    panoptic_root: str,
    name: str | None,
    class_names: tuple[str, ...] | None,
    stamp: int,
) -> DetectionDataset:
    # `stamp` is only part of the cache key, so that a changed file is read again.
    return read_coco_panoptic(
        annotations, image_root, panoptic_root, name=name, class_names=class_names, log=FaultLog()
    )


def read_coco_panoptic(
    annotations: str,
    image_root: str,
    panoptic_root: str,
    *,
    name: str | None = None,
    class_names: tuple[str, ...] | None = None,
    log: FaultLog,
) -> DetectionDataset:
    """Read without the cache; faults go to `log`, and unreadable files raise `DatasetError`."""
    content = read_json(annotations, log)
    for kind, folder in (("image", image_root), ("panoptic", panoptic_root)):
        if not Path(folder).is_dir():
            log.error(f"{kind} folder missing", annotations, f"its {kind} folder {folder} does not exist")
    category_ids, names = read_categories(annotations, content["categories"], log)
    if class_names is not None and class_names != names:
        message = f"its classes by category id are {list(names)}, but class_names says {list(class_names)}"
        log.error("class names", annotations, message)
    is_thing = _read_is_thing(annotations, content["categories"], log)

    table = AnnotationTable(
        lambda row: f"{annotations}: segment {table.annotation_ids[row]} (image {table.file_names[table.owners[row]]})"
    )
    positions = read_images(annotations, content["images"], table, log)
    classes = {category_id: k for k, category_id in enumerate(category_ids)}
    has_annotations = "annotations" in content
    files = _read_segments(annotations, content.get("annotations", []), table, positions, classes, log)
    for image, file in enumerate(files):
        if file is None and has_annotations:
            message = "the image has no entry in 'annotations', not even one without segments"
            log.error("no segmentation", f"{annotations}: image {table.image_ids[image]}", message)
    return pack(
        table,
        name=name or Path(annotations).stem,
        where=annotations,
        class_names=names,
        category_ids=category_ids,
        image_root=image_root,
        has_annotations=has_annotations,
        panoptic=PanopticFiles(panoptic_root, [file or "" for file in files]) if has_annotations else None,
        is_thing=[is_thing.get(category_id, True) for category_id in category_ids],
        log=log,
    )


def _read_is_thing(file: str, entries: list, log: FaultLog) -> dict[int, bool]:
    is_thing: dict[int, bool] = {}

    def read(entry: Any) -> None:
        if isinstance(entry, dict) and isinstance(entry.get("id"), int | float):  # other entries have been reported
            is_thing[entry["id"]] = flag(value_of(entry, "isthing"), "isthing")

    skipping(log, file, "category", entries, read)
    return is_thing


def _read_segments(
    file: str,
    entries: list,
    table: AnnotationTable,
    positions: dict[int, int | None],
    classes: dict[int, int],
    log: FaultLog,
) -> list[str | None]:
    """Fill in the boxes of `table`; returns the PNG file of each image."""
    files: list[str | None] = [None] * len(table.file_names)

    def read(entry: Any) -> None:
        image_id = integer_of(entry, "image_id")
        if image_id not in positions:
            raise Malformed("unknown image", f"its image_id {image_id} is not among the images")
        png = name_of(value_of(entry, "file_name"), "file_name")
        segments = value_of(entry, "segments_info")
        if not isinstance(segments, list):
            raise ValueError(f"'segments_info' must be a list, got {shown(segments)}")
        position = positions[image_id]
        if position is not None and files[position] is not None:
            raise Malformed("duplicate image", f"image {image_id} has another segmentation, {files[position]}")
        if position is not None:
            files[position] = png
        seen_ids: set[int] = set()
        skipping(log, f"{file}: {png}", "segment", segments, lambda segment: add(segment, position, seen_ids))

    def add(segment: Any, position: int | None, seen_ids: set[int]) -> None:
        # An id is stored in three bytes, and 0 means no segment.
        segment_id = integer_of(segment, "id", low=1, high=2**24 - 1)
        if segment_id in seen_ids:
            raise Malformed("duplicate id", "another segment of the image has the same id")
        seen_ids.add(segment_id)
        values: Any = dict(
            class_index=class_of(segment, classes),
            iscrowd=integer(segment.get("iscrowd", 0), "iscrowd", low=0, high=1) == 1,
            area=area_of(segment),
            annotation_id=segment_id,
        )
        box = box_of(segment)
        if position is not None:
            table.add_box(position, box, **values)

    skipping(log, file, "annotation", entries, read)
    return files
