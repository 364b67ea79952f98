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
    """Load a data set from a COCO JSON file. A file is read once per process; later calls return the same object.

    Category ids may start anywhere and have gaps: class k is the k-th category by id. A missing `iscrowd` counts as 0,
    and a missing `area` as width times height. A negative area is replaced likewise, with a warning. Boxes that have no
    area, are outside the image or are not finite are left out and counted. A file without the key `annotations` gives a
    data set for prediction only; with `"annotations": []`, its images have no objects.

    Args:
        annotations: the JSON file.
        image_root: the folder that `file_name` is relative to.
        name: name of the data set in messages. By default the file's name without its extension, or the name of its
            folder for `_annotations.coco.json`, because all files of Roboflow have this name.
        class_names: when set, the file's class names in the order of category ids must be equal to these.
        masks: also read the `segmentation` of every annotation: polygons or run lengths.

    Raises:
        DatasetError: when the file or the folder is missing, or an entry is malformed or contradicts another;
            the message names the file and the annotation id. `tools/check_dataset.py` lists all such faults at once.
    """
    path = Path(os.path.expanduser(annotations))
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    root = str(Path(os.path.expanduser(image_root)))
    return _load_coco(str(path), root, name, check_class_names(class_names), bool(masks), stamp)


@lru_cache(maxsize=8)
def _load_coco(
    annotations: str, image_root: str, name: str | None, class_names: tuple[str, ...] | None, masks: bool, stamp: int
) -> DetectionDataset:
    # `stamp` is only part of the cache key, so that a changed file is read again.
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
    """Read a COCO file without the cache. Faults go to `log`; files that cannot be read at all raise `DatasetError`.

    Args:
        categories: (id, name) of all classes in order, when several files share one list of classes. The file's own
            list of categories is ignored then.
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
        name=name or _default_name(Path(annotations)),
        where=annotations,
        class_names=names,
        category_ids=category_ids,
        image_root=image_root,
        has_annotations="annotations" in content,
        log=log,
    )


def _default_name(path: Path) -> str:
    return path.absolute().parent.name if path.stem.startswith("_annotations") else path.stem


def read_json(path: str, log: FaultLog) -> dict[str, Any]:
    """Return the content of a COCO file: an object with the lists `images`, `categories` and perhaps `annotations`.

    Keys that occur repeated_keys in one object are reported to `log`.

    Raises:
        DatasetError: when the file does not exist, or is not a COCO file.
    """
    if Path(path).is_dir() or path.lower().endswith((".yaml", ".yml", ".xml", ".csv", ".txt")):
        kind = "a folder" if Path(path).is_dir() else f"a {Path(path).suffix} file"
        raise DatasetError(
            f"annotation file {path} is {kind}, not a COCO JSON file. Folders with COCO, YOLO, Pascal VOC "
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
        # From bytes, because json then detects UTF-8, UTF-16 and UTF-32, with or without a byte order mark.
        content = json.loads(Path(path).read_bytes(), object_pairs_hook=as_dict)
    except FileNotFoundError:
        near = [str(file) for file in Path(path).parent.glob("*.json")]
        raise DatasetError(f"annotation file {path} does not exist{did_you_mean(path, near)}") from None
    except OSError as error:
        raise DatasetError(f"annotation file {path} cannot be read: {error}") from error
    except ValueError as error:  # invalid JSON, or bytes that are not text
        raise DatasetError(f"annotation file {path} is not valid JSON: {error}") from error
    except RecursionError:
        raise DatasetError(f"annotation file {path} is nested too deeply to be a COCO file") from None
    if not isinstance(content, dict):
        raise DatasetError(
            f"annotation file {path} holds a {type(content).__name__}, not an object with 'images', "
            "'annotations' and 'categories' (a file of results is not an annotation file)"
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
    """Raised with (kind, message) for an entry that will be reported and skipped."""


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
    """Return `bbox` as corners x0, y0, x1, y1."""
    box = value_of(entry, "bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(side) in (int, float) for side in box):
        raise ValueError(f"'bbox' must be four numbers (x, y, width, height), got {shown(box)}")
    x, y, width, height = (real(side, "bbox") for side in box)
    return x, y, x + width, y + height


def area_of(entry: Any) -> float:
    """Return `area` in square pixels; NaN when it is missing, which stands for the area of the box."""
    area = entry.get("area")
    return math.nan if area is None else real(area, "area")


def class_of(entry: Any, classes: dict[int, int]) -> int:
    """Return the class index of `category_id`."""
    category_id = integer_of(entry, "category_id")
    if category_id not in classes:
        choices = ", ".join(map(str, classes)) if len(classes) <= 100 else f"{len(classes)} ids"
        raise Malformed("unknown category", f"its category_id {category_id} is not among the categories ({choices})")
    return classes[category_id]


def skipping(log: FaultLog, file: str, kind: str, entries: list, read: Callable[[Any], None]) -> None:
    """Apply `read` to every entry; report malformed entries with the file and the id."""
    for position, entry in enumerate(entries):
        try:
            read(entry)
        except DatasetError:  # already reported
            raise
        except (Malformed, ValueError) as error:
            named = isinstance(entry, dict) and "id" in entry
            label = f"{kind} {shown(entry['id'])}" if named else f"{kind} at position {position}"
            fault, message = error.args if isinstance(error, Malformed) else ("malformed entry", str(error))
            log.error(fault, f"{file}: {label}", message)


def read_categories(file: str, entries: list, log: FaultLog) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids and the names of the categories, both in the order of ids."""
    names: dict[int, str] = {}

    def read(entry: Any) -> None:
        category_id = integer_of(entry, "id")
        if category_id in names:
            raise Malformed("duplicate id", f"its id is also that of category {names[category_id]!r}")
        names[category_id] = f"category {category_id}"  # used if the name is faulty, so that boxes have a class
        name = name_of(value_of(entry, "name"), "name")
        if name in names.values():
            raise Malformed("duplicate name", f"another category is also called {name!r}: rename or merge one")
        names[category_id] = name

    skipping(log, file, "category", entries, read)
    if not names:
        log.error("no categories", file, "it has no categories")
    ids = tuple(sorted(names))
    return ids, tuple(names[category_id] for category_id in ids)


def read_images(file: str, entries: list, table: AnnotationTable, log: FaultLog) -> dict[int, int | None]:
    """Add the images to `table`. Returns image id -> position, which is None for an image with other faulty values."""
    positions: dict[int, int | None] = {}
    ids: dict[str, int] = {}

    def read(entry: Any) -> None:
        image_id = integer_of(entry, "id")
        position = positions.setdefault(image_id, None)  # stays None after a fault: its annotations are not at fault
        file_name = name_of(value_of(entry, "file_name"), "file_name")
        height, width = (integer_of(entry, key, low=1, high=MAX_SIDE) for key in ("height", "width"))
        if position is not None:
            first_file = table.file_names[position]
            raise Malformed("duplicate id", f"the images {first_file} and {file_name} share this id")
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
    """Add the boxes to `table`."""
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
            # Removed from the content, which would otherwise keep every number in memory as a Python object.
            values["segmentation"] = checked_segmentation(entry.pop("segmentation"), table.sizes[position])
        table.add_box(position, box, **values)

    skipping(log, file, "annotation", entries, read)
