"""Detects the layout of a folder."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ...errors import did_you_mean
from ..dataset import DetectionDataset
from ..faults import DatasetError
from .coco_files import coco_files, coco_layout
from .csv_tables import csv_layout, csv_tables
from .found import FoundDataset, Layout, Part, found_dataset
from .tree import Tree
from .voc_folders import voc_folders, voc_layout
from .yolo_folders import yolo_files, yolo_layout

DEFAULT_VAL_SHARE = 0.2


class _Kind(NamedTuple):
    """The functions that recognise and read one layout.

    Attributes:
        label: name in messages.
        candidates: returns the files or folders of this layout in a folder; none if the folder has another layout.
        build: makes a `Layout` of the candidates.
        extensions: extensions of single files that may be given in place of a folder.
    """

    label: str
    candidates: Callable[[Tree], list[str]]
    build: Callable[[Tree, list[str]], Layout]
    extensions: tuple[str, ...] = ()


# In order of priority for folders that have several layouts: the most informative layout comes first.
_KINDS = {
    "yolo": _Kind("YOLO", yolo_files, yolo_layout, (".yaml", ".yml")),
    "coco": _Kind("COCO", coco_files, coco_layout, (".json",)),
    "voc": _Kind("Pascal VOC", voc_folders, voc_layout),
    "csv": _Kind("CSV", csv_tables, csv_layout, (".csv",)),
}
LAYOUTS = tuple(_KINDS)


def find_dataset(
    folder: str | os.PathLike[str], *, seed: int = 0, val_share: float = DEFAULT_VAL_SHARE, layout: str | None = None
) -> FoundDataset:
    """Find the data set in a folder: detects its layout, classes and splits.

    Supported are COCO JSON (including exports of Roboflow), YOLO labels with a data.yaml or a list of class names,
    Pascal VOC XML with or without ImageSets, CSV tables with a box in each row, and images without annotations. For a
    folder without a validation set, validation images are drawn with a seed, and listed in a file in the folder. This
    function reads only the lists of files and classes; `FoundDataset.load` reads the annotations.

    Args:
        folder: the folder of the data set, or its data.yaml, COCO JSON or CSV file.
        seed: seed of the random split, for folders without a validation set.
        val_share: the fraction of images that are drawn for validation, above 0 and below 1.
        layout: `coco`, `yolo`, `voc` or `csv`, for folders that have files of several layouts. None takes the first of
            yolo, coco, voc and csv, and mentions the others in `remarks`.

    Returns:
        The data set; the same object for the same arguments as long as the files do not change.

    Raises:
        DatasetError: when the folder does not exist, has no data set, or its contents contradict each other.
    """
    if not isinstance(val_share, int | float) or not 0 < val_share < 1:
        raise DatasetError(f"val_share must be above 0 and below 1, got {val_share!r}")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise DatasetError(f"seed must be an integer, got {seed!r}")
    if layout is not None and layout not in _KINDS:
        raise DatasetError(f"unknown layout {layout!r}{did_you_mean(layout, _KINDS)}")
    path = Path(os.path.expanduser(folder))
    if path.is_file():
        kind = next((name for name, known in _KINDS.items() if path.suffix.lower() in known.extensions), None)
        if kind is None or layout not in (None, kind):
            raise DatasetError(
                f"{path} is a file, but not a {layout or 'data.yaml, COCO JSON or CSV'} file: give a folder"
            )
        tree = Tree(str(path.parent))
        return _find(str(path.parent), str(path), seed, float(val_share), kind, tree.stamp())
    if not path.exists():
        near = [str(sibling) for sibling in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DatasetError(
            f"folder {path} does not exist (looked from {os.getcwd()}){did_you_mean(str(path), near, otherwise='')}"
        )
    return _find(str(path), None, seed, float(val_share), layout, Tree(str(path)).stamp())


@lru_cache(maxsize=8)
def _find(
    root: str, file: str | None, seed: int, val_share: float, layout: str | None, stamp: tuple[int, int]
) -> FoundDataset:
    # `stamp` is only part of the cache key, so that a folder with changed files is read again.
    tree = Tree(root)
    if file is not None:
        assert layout is not None
        return found_dataset(root, _KINDS[layout].build(tree, [file]), seed=seed, val_share=val_share)
    candidates = {name: kind.candidates(tree) for name, kind in _KINDS.items() if layout in (None, name)}
    names = [name for name, files in candidates.items() if files]
    if not names:
        if layout is not None:
            raise DatasetError(f"{root} has nothing that looks like {_KINDS[layout].label}")
        return found_dataset(root, _images_alone(tree), seed=seed, val_share=val_share)
    built = _KINDS[names[0]].build(tree, candidates[names[0]])
    others = tuple(
        f"There are also {_KINDS[name].label} annotations ({_first(tree, candidates[name])}), which are not used: set "
        f"the layout {name!r} to read them"
        for name in names[1:]
    )
    built = Layout(built.name, built.class_names, built.category_ids, built.parts, (*built.remarks, *others))
    return found_dataset(root, built, seed=seed, val_share=val_share)


def _first(tree: Tree, paths: list[str]) -> str:
    return tree.relative(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _images_alone(tree: Tree) -> Layout:
    folders = [folder for folder in tree.files if tree.images(folder)]
    if not folders:
        raise DatasetError(
            f"{tree.root} has no data set: there are no images and no COCO JSON, YOLO, Pascal VOC or CSV annotations "
            "in it or in its subfolders"
        )
    number = sum(len(tree.images(folder)) for folder in folders)
    part = Part(tree.root, folders[0] if len(folders) == 1 else tree.root, _no_reader)
    remark = f"There are {number} images and no annotations: they can be used for prediction, but not for training"
    return Layout("images", (), (), {"all": part}, (remark, *_foreign(tree)))


def _foreign(tree: Tree) -> list[str]:
    """Return remarks about files of formats that are not supported."""
    remarks = [
        f"{tree.relative(path)} does not name the columns of boxes (filename, class, xmin, ymin, xmax, ymax)"
        for path in tree.paths(".csv")[:1]
    ]
    signs = {
        b'"shapes"': "looks like LabelMe's: export as COCO or YOLO",
        b'"label_studio': "looks like Label Studio's own format: export from there as COCO or YOLO",
    }
    for path in tree.paths(".json")[:1]:
        with open(path, "rb") as file:
            head = file.read(2**16)
        remarks += [f"{tree.relative(path)} {text}" for sign, text in signs.items() if sign in head]
    return remarks


def _no_reader(**arguments: object) -> DetectionDataset:
    raise AssertionError("images alone have no reader")


def load_split(
    root: str | os.PathLike[str],
    split: str,
    *,
    seed: int = 0,
    val_share: float = DEFAULT_VAL_SHARE,
    layout: str | None = None,
    masks: bool = False,
) -> DetectionDataset:
    """Load one split of the data set in a folder, for configs: `find_dataset(root, ...).load(split, masks=masks)`.

    Raises:
        DatasetError: like `find_dataset` and `FoundDataset.load`.
    """
    return find_dataset(root, seed=seed, val_share=val_share, layout=layout).load(split, masks=masks)
