"""Reads YOLO labels: one text file per image with an object in each line, in fractions of the image's size.

A line is `class x y width height`, with the centre and size of a box, or `class x1 y1 x2 y2 x3 y3 ...`, with the
points of a polygon, as documented by Ultralytics.
"""

import logging
import os
from collections.abc import Sequence

import numpy as np

from ..structures.masks import checked_segmentation
from .dataset import DetectionDataset
from .faults import DatasetError, FaultLog, integer, shown
from .image import read_image_size
from .packing import AnnotationTable, pack

logger = logging.getLogger(__name__)

_LARGEST = 1.5  # the largest fraction, as objects may extend beyond their image; larger numbers are pixels
_DIGITS = 10  # decimal places of pixel coordinates; further digits of fraction times size are rounding errors


def label_path(image: str) -> str:
    """Return the path of an image's label file: in `labels` if the image is below `images`, else next to it."""
    folder, name = os.path.split(os.path.splitext(image)[0])
    parts = folder.split(os.sep)
    for position in reversed(range(len(parts))):
        if parts[position] == "images":
            return os.path.join(os.sep.join([*parts[:position], "labels", *parts[position + 1 :]]), f"{name}.txt")
    return os.path.join(folder, f"{name}.txt")


def read_yolo(
    images: Sequence[str],
    root: str,
    class_names: Sequence[str],
    *,
    where: str,
    name: str,
    masks: bool = False,
    log: FaultLog,
) -> DetectionDataset:
    """Read images with their YOLO labels; an image without a label file has no objects.

    Images whose header cannot be read are left out with a warning, because the size of their boxes is unknown. Image
    ids and annotation ids count from 1, category ids from 0, as in label files.

    Args:
        images: paths of the images.
        root: the folder that file names are relative to.
        class_names: K names.
        where: the file or folder that lists the images, for messages.
        name: name of the data set.
        masks: read polygons, which every object must have then; otherwise polygons are read as the boxes around them.
        log: collects the faults, each with file and line.

    Raises:
        DatasetError: at the first fault, when the log is strict.
    """
    labels: list[str] = []
    table = AnnotationTable(lambda row: labels[row], segmentations=[] if masks else None)
    files = [label_path(image) for image in images]
    seen: dict[str, str] = {}
    broken = 0
    if images and not any(os.path.isfile(file) for file in files):
        message = f"none of its {len(files)} images has a label file: that of {images[0]} would be {files[0]}"
        log.error("no labels", where, message)
    for image, file in zip(images, files, strict=True):
        if file in seen:
            log.error("duplicate file", file, f"it is the label file of {seen[file]} and of {image}: rename one image")
        seen[file] = image
        try:
            size = read_image_size(image)
        except DatasetError as error:
            log.repaired("image unreadable", image, str(error), image=image)
            broken += 1
            continue
        owner = len(table.file_names)
        table.add_image(os.path.relpath(image, root), owner + 1, size)
        _read_labels(file, image, owner, size, class_names, table, labels, log)
    if broken and log.strict:
        logger.warning("%s: %d images are left out because their size cannot be read.", where, broken)
    _report_orphans(seen, log)
    return pack(
        table,
        name=name,
        where=where,
        class_names=class_names,
        category_ids=range(len(class_names)),
        image_root=root,
        has_annotations=True,
        log=log,
    )


def _read_labels(
    file: str,
    image: str,
    owner: int,
    size: tuple[int, int],
    class_names: Sequence[str],
    table: AnnotationTable,
    labels: list[str],
    log: FaultLog,
) -> None:
    """Add the boxes of one image to `table`."""
    try:
        with open(file, encoding="utf-8-sig") as opened:
            lines = opened.read().splitlines()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        log.error("malformed file", file, f"the label file cannot be read: {error}")
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        try:
            class_index, points = _object_of(line, class_names)
            scaled = points * np.array([size[1], size[0]])
            polygon = np.round(scaled.reshape(-1), _DIGITS) if len(points) > 2 else None
            if table.segmentations is not None and polygon is None:
                raise ValueError("it is a box: reading masks needs a polygon of at least 3 points")
            box = _corners(scaled)
            segmentation = None
            if table.segmentations is not None and polygon is not None:
                segmentation = checked_segmentation([polygon.tolist()], size)
        except ValueError as error:
            log.error("malformed line", where, str(error), image=image)
            continue
        labels.append(f"{where} ({class_names[class_index]})")
        table.add_box(
            owner,
            box,
            class_index=class_index,
            iscrowd=False,
            area=float("nan") if polygon is None else polygon_area(polygon),
            annotation_id=len(labels),
            segmentation=segmentation,
        )


def _object_of(line: str, class_names: Sequence[str]) -> tuple[int, np.ndarray]:
    """Return the class of a line, and (2, 2) centre and size of a box or (P, 2) points of a polygon, in fractions.

    Raises:
        ValueError: when the line is neither a box nor a polygon.
    """
    words = line.split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"a line must be numbers separated by spaces, got {shown(line)}") from None
    if len(numbers) != 5 and (len(numbers) < 7 or len(numbers) % 2 == 0):
        hint = " (a sixth number would be a score, which annotations do not have)" if len(numbers) == 6 else ""
        raise ValueError(
            "a line must be 'class x y width height' or 'class x1 y1 x2 y2 x3 y3 ...', that is, 5 numbers or an odd "
            f"number of at least 7, got {len(numbers)}{hint}: {shown(line)}"
        )
    class_index = integer(numbers[0], "class")
    if not 0 <= class_index < len(class_names):
        names = f"0 to {len(class_names) - 1}" if len(class_names) > 1 else "0"
        raise ValueError(f"its class {class_index} is not among the classes, {names}")
    values = np.array(numbers[1:])
    if np.isfinite(values).all() and (np.abs(values) > _LARGEST).any():
        worst = values[np.abs(values).argmax()]
        raise ValueError(f"{worst:g} is not a fraction of the image's size (is it in pixels?): {shown(line)}")
    return class_index, values.reshape(-1, 2)


def has_polygons(images: Sequence[str]) -> bool:
    """Return whether a label file of any of the images has a polygon."""
    for image in images:
        try:
            with open(label_path(image), encoding="utf-8-sig") as file:
                if any(len(line.split()) > 5 for line in file):
                    return True
        except (OSError, ValueError):  # no file, or one that the reader reports
            continue
    return False


def _corners(points: np.ndarray) -> tuple[float, ...]:
    """Return x0, y0, x1, y1 of a centre and size, or of the points of a polygon."""
    if len(points) == 2:
        centre, size = points
        low, high = centre - size / 2, centre + size / 2
    else:
        low, high = points.min(0), points.max(0)
    return tuple(np.round([*low, *high], _DIGITS).tolist())


def polygon_area(polygon: np.ndarray) -> float:
    """Return the area in square pixels of a polygon with the flat points x0, y0, x1, y1, ..."""
    x, y = np.reshape(polygon, (-1, 2)).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _report_orphans(files: dict[str, str], log: FaultLog) -> None:
    """Log the label files that belong to no image of the same folder."""
    if log.strict:
        return
    for folder in sorted({os.path.dirname(file) for file in files}):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            path = os.path.join(folder, name)
            if name.endswith(".txt") and path not in files and name not in ("classes.txt", "train.txt", "val.txt"):
                log.repaired("label without image", path, "there is no image with this name: its objects are not used")
