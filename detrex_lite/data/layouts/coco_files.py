"""Recognises and reads folders with COCO JSON files, including exports of Roboflow."""

import os
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from ..coco import read_categories, read_coco, read_json
from ..faults import DatasetError, FaultLog
from .found import Layout, Part
from .tree import Tree, first_of_each_split, image_folder, is_split_file

ROBOFLOW_NAME = "_annotations.coco.json"


class Summary(NamedTuple):
    """The classes and images of a COCO file.

    Attributes:
        categories: entries of the list of categories.
        boxes: category id -> number of annotations.
        file_names: file names of the first images.
        has_masks: whether any annotation has a segmentation that is not empty.
        is_panoptic: whether annotations are panoptic segments, whose masks are in separate files.
    """

    categories: list[Any]
    boxes: Counter
    file_names: list[str]
    has_masks: bool
    is_panoptic: bool


def coco_files(tree: Tree) -> list[str]:
    """Return the JSON files of a folder that have images and categories."""
    return [path for path in tree.paths(".json") if not is_split_file(os.path.basename(path)) and _is_coco(path)]


def _is_coco(path: str) -> bool:
    try:
        return _has_keys(path, os.stat(path).st_mtime_ns)
    except OSError:  # a broken link
        return False


@lru_cache(maxsize=4096)
def _has_keys(path: str, stamp: int) -> bool:
    content = Path(path).read_bytes()
    if b"\0" in content[:4]:  # UTF-16 or UTF-32
        content = content.replace(b"\0", b"")
    return content[:8].lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"{") and all(
        key in content for key in (b'"images"', b'"categories"')
    )


def summary_of(path: str) -> Summary:
    """Return the classes and images of a COCO file; unchanged files are read only once.

    Raises:
        DatasetError: when the file cannot be read.
    """
    return _summary_of(path, os.stat(path).st_mtime_ns)


@lru_cache(maxsize=16)
def _summary_of(path: str, stamp: int) -> Summary:
    content = read_json(path, FaultLog(strict=False))
    annotations = [entry for entry in content.get("annotations", []) if isinstance(entry, dict)]
    ids = (entry.get("category_id") for entry in annotations)
    names = [entry.get("file_name") for entry in content["images"][:50] if isinstance(entry, dict)]
    return Summary(
        categories=content["categories"],
        boxes=Counter(number for number in ids if isinstance(number, int | float)),
        file_names=[name for name in names if isinstance(name, str)],
        has_masks=any(entry.get("segmentation") for entry in annotations),
        is_panoptic=any("segments_info" in entry for entry in annotations[:1]),
    )


def coco_layout(tree: Tree, paths: list[str]) -> Layout:
    """Return the splits and classes of COCO files.

    Raises:
        DatasetError: when files contradict each other, or the images of a file are not found.
    """
    panoptic = [path for path in paths if summary_of(path).is_panoptic]
    remarks = [f"{tree.relative(path)} is not used: it is panoptic and has no boxes" for path in panoptic]
    chosen, unused = first_of_each_split(
        tree, [path for path in paths if path not in panoptic], "COCO files", preferred="instances"
    )
    remarks += [f"{tree.relative(path)} is not used: its name has no split, unlike others" for path in unused]
    if not chosen:
        raise DatasetError(f"{tree.root} has panoptic annotations only, which are read by load_coco_panoptic")
    summaries = {path: summary_of(path) for path in chosen.values()}
    entries = _merged(tree, {path: summary.categories for path, summary in summaries.items()})
    boxes = sum((summary.boxes for summary in summaries.values()), Counter())
    dummy = _dummy_category(entries, boxes)
    if dummy is not None:
        entries = [entry for entry in entries if entry is not dummy]
        remarks.append(
            f"The category {dummy['name']!r} (id {dummy['id']}) is not used as a class: it is the super-category that "
            "Roboflow adds to its exports, and has no box in any split"
        )
    ids, names = read_categories(next(iter(chosen.values())), entries, FaultLog())
    categories = tuple(zip(ids, names, strict=True))
    parts = {}
    for split, path in chosen.items():
        root = image_folder(tree, summaries[path].file_names, path, None if split == "all" else split)
        reader = partial(read_coco, path, root, categories=categories)
        parts[split] = Part(path, root, reader, partial(bool, summaries[path].has_masks))
    is_roboflow = all(os.path.basename(path) == ROBOFLOW_NAME for path in chosen.values())
    return Layout("Roboflow COCO" if is_roboflow else "COCO", names, ids, parts, tuple(remarks))


def _merged(tree: Tree, categories: dict[str, list[Any]]) -> list[Any]:
    """Return the category entries of all files, each category once.

    Raises:
        DatasetError: when an id has different names in two files.
    """
    merged: list[Any] = []
    first: dict[Any, tuple[str, str]] = {}
    for path, entries in categories.items():
        known = dict(first)
        for entry in entries:
            key = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(key, int | str) or key not in known:
                merged.append(entry)
                if isinstance(key, int | str):
                    first[key] = (path, entry.get("name"))
            elif entry.get("name") != known[key][1]:
                first_path, name = known[key]
                raise DatasetError(
                    f"category {key} is {name!r} in {tree.relative(first_path)} and {entry.get('name')!r} in "
                    f"{tree.relative(path)}: the splits of one data set need the same categories"
                )
    return merged


def _dummy_category(entries: list[Any], boxes: Counter) -> dict[str, Any] | None:
    """Return the category that Roboflow's export adds: the super-category of all others, which has no boxes."""
    if len(entries) < 2 or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
        return None
    for entry in entries:
        others = [category for category in entries if category is not entry]
        is_parent = all(category.get("supercategory") == entry.get("name") for category in others)
        if is_parent and entry.get("supercategory") != entry.get("name") and not boxes[entry["id"]]:
            return entry
    return None
