"""Which layout a folder has."""

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
    """One layout: how to recognise it, and how to read what was recognised.

    Attributes:
        label: for messages.
        candidates: the files or folders that show that a folder has this layout; none when it has another.
        build: makes a `Layout` of them.
        extensions: of single files that may be given in place of a folder.
    """

    label: str
    candidates: Callable[[Tree], list[str]]
    build: Callable[[Tree, list[str]], Layout]
    extensions: tuple[str, ...] = ()


# In the order in which they count where a folder has several: what says most comes first.
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
    """The data set in a folder: its layout, classes and splits, found by looking.

    Known are COCO JSON (Roboflow's exports among them), YOLO labels with a data.yaml or a list of class names, Pascal
    VOC XML with or without ImageSets, CSV tables with a box in each row, and images alone. A folder without a
    validation set gets one: images are drawn with a seed, and a file in the folder keeps which. Nothing is read but
    what says which files and classes there are; `FoundDataset.load` reads the rest.

    Args:
        folder: the folder of the data set, or its data.yaml, COCO JSON or CSV file.
        seed: of the split, where one is drawn.
        val_share: the share of the images that are then for validation, above 0 and below 1.
        layout: `coco`, `yolo`, `voc` or `csv`, where a folder has files of several; None takes the first of yolo, coco,
            voc and csv, and says so in `remarks`.

    Returns:
        The same object for the same arguments as long as the files are the same.

    Raises:
        DatasetError: when there is no such folder, it has no data set, or what it has contradicts itself.
    """
    if not isinstance(val_share, int | float) or not 0 < val_share < 1:
        raise DatasetError(f"val_share must be above 0 and below 1, got {val_share!r}")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise DatasetError(f"seed must be an integer, got {seed!r}")
    if layout is not None and layout not in _KINDS:
        raise DatasetError(f"there is no layout {layout!r}{did_you_mean(layout, _KINDS)}")
    path = Path(os.path.expanduser(folder))
    if path.is_file():
        kind = next((name for name, known in _KINDS.items() if path.suffix.lower() in known.extensions), None)
        if kind is None or layout not in (None, kind):
            raise DatasetError(
                f"{path} is a file, and no {layout or 'data.yaml, COCO JSON or CSV'} file: give a folder"
            )
        tree = Tree(str(path.parent))
        return _find(str(path.parent), str(path), seed, float(val_share), kind, tree.stamp())
    if not path.exists():
        near = [str(other) for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DatasetError(
            f"folder {path} does not exist (looked from {os.getcwd()}){did_you_mean(str(path), near, otherwise='')}"
        )
    return _find(str(path), None, seed, float(val_share), layout, Tree(str(path)).stamp())


@lru_cache(maxsize=8)
def _find(
    root: str, file: str | None, seed: int, val_share: float, layout: str | None, stamp: tuple[int, int]
) -> FoundDataset:
    # `stamp` is part of the cache key only: a folder in which files changed is looked at again.
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
    found = _KINDS[names[0]].build(tree, candidates[names[0]])
    others = tuple(
        f"There are {_KINDS[name].label} annotations, too ({_first(tree, candidates[name])}), which are not used: the "
        f"layout {name!r} would read them"
        for name in names[1:]
    )
    found = Layout(found.name, found.class_names, found.category_ids, found.parts, (*found.remarks, *others))
    return found_dataset(root, found, seed=seed, val_share=val_share)


def _first(tree: Tree, paths: list[str]) -> str:
    return tree.relative(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _images_alone(tree: Tree) -> Layout:
    folders = [folder for folder in tree.files if tree.images(folder)]
    if not folders:
        raise DatasetError(
            f"{tree.root} has no data set: there is no image, and no COCO JSON, YOLO, Pascal VOC or CSV annotations in "
            "it or in its folders"
        )
    number = sum(len(tree.images(folder)) for folder in folders)
    part = Part(tree.root, folders[0] if len(folders) == 1 else tree.root, _no_reader)
    remark = f"There are {number} images and no annotations: they can be predicted, not trained on"
    return Layout("images", (), (), {"all": part}, (remark, *_foreign(tree)))


def _foreign(tree: Tree) -> list[str]:
    """What formats that are not read leave in a folder."""
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
    """One split of the data set in a folder, for configs: `find_dataset(root, ...).load(split, masks=masks)`.

    Raises:
        DatasetError: as those two do.
    """
    return find_dataset(root, seed=seed, val_share=val_share, layout=layout).load(split, masks=masks)
