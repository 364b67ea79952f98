"""COCO detection files (https://cocodataset.org/#format-data)."""

import json
import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import did_you_mean
from ..structures import checked_segmentation
from .dataset import DetectionDataset
from .faults import MAX_SIDE, DatasetError, FaultLog, check_class_names, integer, name_of, real, shown
from .packing import AnnotationTable, pack


def load_coco(
    annotations: str | Path,
    image_root: str | Path,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    *,
    masks: bool = False,
) -> DetectionDataset:
    """A data set from a COCO JSON file; read once per process and file, later calls return the same object.

    Category ids may start anywhere and have gaps: class k is the k-th category by id. Missing `iscrowd` counts as 0,
    missing `area` as width times height, and so does an area below 0, with a warning. Boxes without area, outside the
    image or not finite are left out and counted. A file without the key `annotations` gives a data set for prediction
    only; with `"annotations": []` its images show no object.

    Args:
        annotations: the JSON file.
        image_root: the folder that `file_name` is relative to.
        name: what messages call the data set; when None the file's name without extension, or that of its folder for a
            `_annotations.coco.json`, as Roboflow calls every file.
        class_names: when given, the file's class names by category id must be these.
        masks: read the `segmentation` of every annotation, too: polygons or run lengths.

    Raises:
        DatasetError: when the file or the folder is missing, or an entry is malformed or contradicts another;
            it names the file and the annotation id. `tools/check_dataset.py` lists all such faults at once.
    """
    path = Path(os.path.expanduser(annotations))
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    root = str(Path(os.path.expanduser(image_root)))
    return _load_coco(str(path), root, name, check_class_names(class_names), bool(masks), stamp)


@lru_cache(maxsize=8)
def _load_coco(
    annotations: str, image_root: str, name: str | None, class_names: tuple[str, ...] | None, masks: bool, stamp: int
) -> DetectionDataset:
    # `stamp` is part of the cache key only: a file that changed is read again.
    return read_coco(annotations, image_root, name=name, class_names=class_names, masks=masks, log=FaultLog())


def read_coco(
    annotations: str,
    image_root: str,
    *,
    name: str | None = None,
    class_names: tuple[str, ...] | None = None,
    categories: tuple[tuple[int, str], ...] | None = None,
    masks: bool = False,
    log: FaultLog,
) -> DetectionDataset:
    """Read without the cache; faults go to `log`, and what cannot be read at all raises `DatasetError`.

    Args:
        categories: (id, name) of all classes in order, where several files have them together; the file's list of
            categories is then not looked at.
    """
    content = read_json(annotations, log)
    if not Path(image_root).is_dir():
        log.error("image folder missing", annotations, f"its image folder {image_root} does not exist")
    if categories is None:
        category_ids, names = read_categories(annotations, content["categories"], log)
    else:
        category_ids, names = tuple(pair[0] for pair in categories), tuple(pair[1] for pair in categories)
    if class_names is not None and class_names != names:
        message = f"its classes by category id are {list(names)}, but class_names says {list(class_names)}"
        log.error("class names", annotations, message)

    table = AnnotationTable(
        lambda row: (
            f"{annotations}: annotation {table.annotation_ids[row]} (image {table.file_names[table.owners[row]]})"
        ),
        segmentations=[] if masks else None,
    )
    positions = read_images(annotations, content["images"], table, log)
    classes = {category_id: k for k, category_id in enumerate(category_ids)}
    _read_annotations(annotations, content.get("annotations", []), table, positions, classes, log)
    return pack(
        table,
        name=name or _own_name(Path(annotations)),
        where=annotations,
        class_names=names,
        category_ids=category_ids,
        image_root=image_root,
        has_annotations="annotations" in content,
        log=log,
    )


def _own_name(path: Path) -> str:
    return path.absolute().parent.name if path.stem.startswith("_annotations") else path.stem


def read_json(path: str, log: FaultLog) -> dict[str, Any]:
    """The content of a COCO file: an object with the lists `images`, `categories` and perhaps `annotations`.

    Keys that occur twice in one object go to `log`.

    Raises:
        DatasetError: when there is no such file, or it holds something else.
    """
    if Path(path).is_dir() or path.lower().endswith((".yaml", ".yml", ".xml", ".csv", ".txt")):
        kind = "a folder" if Path(path).is_dir() else f"a {Path(path).suffix} file"
        raise DatasetError(
            f"annotation file {path} is {kind}, and a COCO JSON file is read here. Folders with COCO, YOLO, Pascal VOC "
            "or CSV annotations are read by `detrex-lite train MODEL --data FOLDER`, in configs by dataset.root of "
            "configs/common/data/folder.py, and in Python by detrex_lite.data.find_dataset"
        )
    repeated: list[tuple[dict[str, Any], str]] = []

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.append((entry, ", ".join(sorted({shown(key) for key in keys if keys.count(key) > 1}))))
        return entry

    try:
        # From bytes: json tells UTF-8, UTF-16 and UTF-32 apart, with a byte order mark and without.
        content = json.loads(Path(path).read_bytes(), object_pairs_hook=as_dict)
    except FileNotFoundError:
        near = [str(other) for other in Path(path).parent.glob("*.json")]
        raise DatasetError(f"annotation file {path} does not exist{did_you_mean(path, near)}") from None
    except OSError as error:
        raise DatasetError(f"annotation file {path} cannot be read: {error}") from error
    except ValueError as error:  # broken JSON, or bytes that are no text
        raise DatasetError(f"annotation file {path} is not valid JSON: {error}") from error
    except RecursionError:
        raise DatasetError(f"annotation file {path} is nested too deep to be read: no COCO file is") from None
    if not isinstance(content, dict):
        raise DatasetError(
            f"annotation file {path} holds a {type(content).__name__}, not an object with 'images', "
            "'annotations' and 'categories' (a file of results is no annotation file)"
        )
    for key in ("images", "categories"):
        if key not in content:
            raise DatasetError(f"annotation file {path} has no {key!r}; its keys are {', '.join(content) or 'none'}")
    for key in ("images", "categories", "annotations"):
        if not isinstance(content.get(key, []), list):
            raise DatasetError(f"annotation file {path}: {key!r} is not a list")
    for entry, twice in repeated:
        label = "its outermost object" if entry is content else f"the object {shown(entry)}"
        log.error("repeated key", path, f"{label} has {twice} more than once")
    return content


class Malformed(Exception):
    """(kind, message) of an entry that is to be reported and skipped."""


def value_of(entry: Any, key: str) -> Any:
    try:
        return entry[key]
    except KeyError:
        raise Malformed("missing key", f"it has no {key!r}; its keys are {', '.join(map(str, entry))}") from None
    except (TypeError, IndexError):
        raise Malformed("malformed entry", f"it is not an object but {shown(entry)}") from None


def integer_of(entry: Any, key: str, **limits: int) -> int:
    return integer(value_of(entry, key), key, **limits)


def box_of(entry: Any) -> tuple[float, float, float, float]:
    """`bbox` as corners x0, y0, x1, y1."""
    box = value_of(entry, "bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(side) in (int, float) for side in box):
        raise ValueError(f"'bbox' must be four numbers (x, y, width, height), got {shown(box)}")
    x, y, width, height = (real(side, "bbox") for side in box)
    return x, y, x + width, y + height


def area_of(entry: Any) -> float:
    """`area` in square pixels; NaN, which stands for that of the box, without it."""
    area = entry.get("area")
    return math.nan if area is None else real(area, "area")


def class_of(entry: Any, classes: dict[int, int]) -> int:
    """The class of `category_id`."""
    category_id = integer_of(entry, "category_id")
    if category_id not in classes:
        choices = ", ".join(map(str, classes)) if len(classes) <= 100 else f"{len(classes)} ids"
        raise Malformed("unknown category", f"its category_id {category_id} is not among the categories ({choices})")
    return classes[category_id]


def skipping(log: FaultLog, file: str, kind: str, entries: list, read: Callable[[Any], None]) -> None:
    """Apply `read` to every entry; report those that are malformed by file and id."""
    for position, entry in enumerate(entries):
        try:
            read(entry)
        except DatasetError:  # reported already
            raise
        except (Malformed, ValueError) as error:
            named = isinstance(entry, dict) and "id" in entry
            label = f"{kind} {shown(entry['id'])}" if named else f"{kind} at position {position}"
            fault, message = error.args if isinstance(error, Malformed) else ("malformed entry", str(error))
            log.error(fault, f"{file}: {label}", message)


def read_categories(file: str, entries: list, log: FaultLog) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and names, both by id."""
    found: dict[int, str] = {}

    def read(entry: Any) -> None:
        category_id = integer_of(entry, "id")
        if category_id in found:
            raise Malformed("duplicate id", f"its id is also that of category {found[category_id]!r}")
        found[category_id] = f"category {category_id}"  # stands in for a faulty name, so that boxes have their class
        name = name_of(value_of(entry, "name"), "name")
        if name in found.values():
            raise Malformed("duplicate name", f"another category is also called {name!r}: rename or merge one")
        found[category_id] = name

    skipping(log, file, "category", entries, read)
    if not found:
        log.error("no categories", file, "there is not one category in it")
    ids = tuple(sorted(found))
    return ids, tuple(found[category_id] for category_id in ids)


def read_images(file: str, entries: list, table: AnnotationTable, log: FaultLog) -> dict[int, int | None]:
    """Fill the images of `table`; returns image id -> position, None for an image whose other values are faulty."""
    positions: dict[int, int | None] = {}
    ids: dict[str, int] = {}

    def read(entry: Any) -> None:
        image_id = integer_of(entry, "id")
        position = positions.setdefault(image_id, None)  # stays so after a fault, which is none of its annotations'
        file_name = name_of(value_of(entry, "file_name"), "file_name")
        height, width = (integer_of(entry, key, low=1, high=MAX_SIDE) for key in ("height", "width"))
        if position is not None:
            other = table.file_names[position]
            raise Malformed("duplicate id", f"the images {other} and {file_name} share this id")
        if file_name in ids:
            message = (
                f"{file_name} is also the file of image {ids[file_name]}: merge the two, or objects count as missing"
            )
            log.error("duplicate file", f"{file}: image {image_id}", message)
        ids[file_name] = image_id
        positions[image_id] = len(table.file_names)
        table.add_image(file_name, image_id, (height, width))

    skipping(log, file, "image", entries, read)
    return positions


def _read_annotations(
    file: str,
    entries: list,
    table: AnnotationTable,
    positions: dict[int, int | None],
    classes: dict[int, int],
    log: FaultLog,
) -> None:
    """Fill the boxes of `table`."""
    seen: set[int] = set()

    def read(entry: Any) -> None:
        annotation_id = integer_of(entry, "id")
        image_id = integer_of(entry, "image_id")
        if image_id not in positions:
            raise Malformed("unknown image", f"its image_id {image_id} is not among the images")
        class_index = class_of(entry, classes)
        if annotation_id in seen:
            raise Malformed("duplicate id", "another annotation has the same id")
        seen.add(annotation_id)
        values: Any = dict(
            class_index=class_index,
            iscrowd=integer(entry.get("iscrowd", 0), "iscrowd", low=0, high=1) == 1,
            area=area_of(entry),
            annotation_id=annotation_id,
        )
        box, position = box_of(entry), positions[image_id]
        if position is None:
            return
        if table.segmentations is not None:
            value_of(entry, "segmentation")
            # Taken out of the file's content, which would otherwise hold every number as an object of Python.
            values["segmentation"] = checked_segmentation(entry.pop("segmentation"), table.sizes[position])
        table.add_box(position, box, **values)

    skipping(log, file, "annotation", entries, read)
