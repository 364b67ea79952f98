"""Checks a data set: lists all its faults and counts its objects."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import printable_lines
from ..structures import box_iou, masks_to_boxes
from .catalog import is_registered, load_dataset, locate
from .coco import read_coco
from .dataset import DetectionDataset
from .faults import DatasetError, Fault, FaultLog, size_fault
from .image import read_image, read_image_size
from .mapper import record_masks
from .panoptic import read_coco_panoptic
from .segmentations import PanopticFiles, PanopticSegments
from .voc import read_voc

# COCO's size classes: the smallest areas in square pixels of medium and of large boxes.
_SIZE_LIMITS = (32**2, 96**2)
_SIZES = ("small", "medium", "large")

_LEAST_OVERLAP = 0.5  # IoU of the annotated box and the box around the mask

Reader = Callable[..., DetectionDataset]  # takes `log`


@dataclass
class Report:
    """The result of a check.

    Attributes:
        dataset: the part of the data set that could be read; None when nothing could be read.
        faults: all faults.
    """

    dataset: DetectionDataset | None = None
    faults: list[Fault] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [] if self.dataset is None else summary(self.dataset)
        return printable_lines("\n".join([*lines, "", *listed(self.faults)]))


def by_kind(faults: Iterable[Fault]) -> dict[str, list[Fault]]:
    """Group faults by their kind."""
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    return kinds


def listed(faults: Sequence[Fault]) -> list[str]:
    """Return lines of text: the number of faults, and the faults of each kind."""
    lines = [f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}" if faults else "no faults"]
    for kind, members in by_kind(faults).items():
        lines += [f"{kind}: {len(members)}", *(f"  {fault}" for fault in members)]
    return lines


def check_dataset(read: Reader, *, decode: bool = True) -> Report:
    """Read a data set and list all its faults.

    Args:
        read: a reader that reports to its keyword argument `log`, e.g. `partial(read_coco, "train.json",
            "images")`.
        decode: decode every image and draw every mask. Otherwise only image headers are read, which are intact in
            most truncated files.
    """
    log = FaultLog(strict=False)
    try:
        dataset = read(log=log)
    except (DatasetError, OSError) as error:
        return Report(None, [*log.faults, Fault("unreadable", "data set", str(error))])
    if os.path.isdir(dataset.image_root or "."):
        log.faults += _image_faults(dataset, decode=decode)
    if dataset.segmentations is not None:
        log.faults += _mask_faults(dataset, decode=decode)
    return Report(dataset, log.faults)


def named_reader(name: str, *, masks: bool = False) -> Reader:
    """Return the reader of a data set in the catalog.

    Args:
        name: the name of the data set.
        masks: also check the masks of COCO objects. The masks of panoptic data sets are always checked.

    Raises:
        DatasetError: when the name is unknown, files are missing, or the data set has no masks to check.
    """
    if is_registered(name):
        return lambda *, log: load_dataset(name, masks=masks)
    location = locate(name)
    if location.reader == "coco":
        return partial(read_coco, **location.arguments, masks=masks)
    if location.reader == "coco_panoptic":
        return partial(read_coco_panoptic, **location.arguments)
    if masks:
        raise DatasetError(f"data set {name!r} has boxes only, no masks")
    return partial(read_voc, **location.arguments)


def _image_faults(dataset: DetectionDataset, *, decode: bool) -> Iterator[Fault]:
    """Yield images that are missing, cannot be read or differ in size from their annotation."""
    sizes = zip(dataset.heights.tolist(), dataset.widths.tolist(), strict=True)
    paths = [dataset.file_name(index) for index in range(len(dataset))]
    yield from image_faults(paths, list(sizes), decode=decode)


def image_faults(
    paths: Sequence[str], sizes: Sequence[tuple[int, int] | None], *, decode: bool = True
) -> Iterator[Fault]:
    """Yield the faults of image files, in the order of the files.

    Args:
        paths: paths of the image files.
        sizes: annotated (height, width) of each image in pixels; None where it is not annotated.
        decode: decode the images; otherwise only their headers are read.
    """
    read = partial(_image_fault, decode=decode)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # Pillow releases the GIL while it decodes
        faults = threads.map(read, paths, sizes)
        for fault in tqdm(faults, desc="images", total=len(paths), disable=None, leave=False):
            if fault is not None:
                yield fault


def _image_fault(path: str, size: tuple[int, int] | None, *, decode: bool) -> Fault | None:
    if not os.path.isfile(path):
        return Fault("image missing", path, "the image does not exist")
    try:
        height, width = read_image(path).shape[-2:] if decode else read_image_size(path)
    except DatasetError as error:
        return Fault("image unreadable", path, str(error).removeprefix(f"image {path} "), path)
    message = None if size is None else size_fault((height, width), size)
    return None if message is None else Fault("image size", path, message, path)


def _mask_faults(dataset: DetectionDataset, *, decode: bool) -> Iterable[Fault]:
    """Yield panoptic files that are missing; with `decode` also masks that are empty or do not match their boxes."""
    panoptic = isinstance(dataset.segmentations, PanopticFiles)
    if not panoptic and not decode:
        return
    for record in tqdm(dataset, desc="masks", disable=None, leave=False):
        segmentations = record["segmentations"]
        if isinstance(segmentations, PanopticSegments):
            fault = _panoptic_fault(segmentations, decode=decode)
            if fault is not None:
                yield fault
                continue
        if decode:
            yield from _drawn_mask_faults(record)


def _panoptic_fault(segments: PanopticSegments, *, decode: bool) -> Fault | None:
    """Return the fault of a panoptic file as a whole; None when it has none."""
    if not os.path.isfile(segments.path):
        return Fault("panoptic file missing", segments.path, "the panoptic segmentation does not exist")
    if not decode:
        return None
    try:
        pixel_ids = set(segments.label_map().unique().tolist()) - {0}
    except DatasetError as error:
        return Fault("panoptic file unreadable", segments.path, str(error))
    missing = sorted(set(segments.ids.tolist()) - pixel_ids)
    if missing:
        return Fault("empty mask", segments.path, f"no pixel belongs to segment {', '.join(map(str, missing))}")
    unknown = sorted(pixel_ids - set(segments.ids.tolist()))
    if unknown:
        message = f"its pixels have segments that are not annotated: {', '.join(map(str, unknown))}"
        return Fault("unknown segment", segments.path, message)
    return None


def _drawn_mask_faults(record: dict[str, Any]) -> Iterable[Fault]:
    drawn_boxes = masks_to_boxes(record_masks(record))
    overlaps = box_iou(drawn_boxes, record["boxes"]).tolist()
    for box, overlap, annotation_id in zip(
        drawn_boxes.tolist(), overlaps, record["annotation_ids"].tolist(), strict=True
    ):
        where = f"{record['file_name']}: annotation {annotation_id}"
        if not any(box):
            message = "its segmentation does not cover any pixel, and training leaves the object out"
            yield Fault("empty mask", where, message, record["file_name"])
        elif overlap < _LEAST_OVERLAP:
            corners = ", ".join(f"{value:g}" for value in box)
            message = f"its box and the box around its mask ({corners}) have an IoU of only {overlap:.2f}"
            yield Fault("mask and box", where, message, record["file_name"], tuple(box))


def summary(dataset: DetectionDataset) -> list[str]:
    """Return lines of text that count the images and the objects of each class and size."""
    sizes = np.digitize(dataset.areas, _SIZE_LIMITS)
    counts = np.zeros((dataset.num_classes, len(_SIZES)), dtype=int)
    np.add.at(counts, (dataset.classes, sizes), 1)
    owners = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    images = [len(np.unique(owners[dataset.classes == k])) for k in range(dataset.num_classes)]

    width = max(map(len, ("class", "all", *dataset.class_names)))
    head = f"{'class':{width}} {'boxes':>9} " + " ".join(f"{size:>9}" for size in _SIZES) + f" {'images':>9}"
    rows = [
        (name, [int(counts[k].sum()), *counts[k].tolist(), images[k]]) for k, name in enumerate(dataset.class_names)
    ]
    rows.append(("all", [int(counts.sum()), *counts.sum(axis=0).tolist(), len(np.unique(owners))]))
    table = [f"{name:{width}} " + " ".join(f"{number:>9}" for number in numbers) for name, numbers in rows]

    lines = [
        f"{dataset.name}: {len(dataset)} images, {dataset.num_boxes} usable boxes",
        f"images without objects: {int((np.diff(dataset.offsets) == 0).sum())}",
        f"crowd or ignored boxes: {int(dataset.iscrowd.sum())}",
        f"num_classes to set: {dataset.num_classes}",
    ]
    if dataset.segmentations is not None:
        stuff = dataset.num_classes - int(dataset.is_thing.sum())
        lines.append("masks: yes" + (f"; classes of stuff: {stuff}" if stuff else ""))
    empty = [name for name, (_, numbers) in zip(dataset.class_names, rows, strict=False) if not numbers[0]]
    if empty and dataset.has_annotations:
        lines.append(f"classes without a box: {', '.join(empty)}")
    if not dataset.has_annotations:
        lines.append("no annotations: for prediction only")
    return [*lines, "", head, *table]
