"""Recognises and reads folders with Pascal VOC XML files, with or without lists of splits."""

import os
from functools import partial

from ..faults import DatasetError
from ..voc import class_names_of, read_voc, root_of, split_lines
from .found import Layout, Part
from .tree import Tree, first_of_each_split

_LISTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def voc_folders(tree: Tree) -> list[str]:
    """The folders whose first XML file is one of VOC, or is broken and beside images."""
    folders = dict.fromkeys(os.path.dirname(path) for path in tree.paths(".xml"))
    return [folder for folder in folders if any(_is_voc(path) for path in _xml_files(tree, folder)[:5])]


def _xml_files(tree: Tree, folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in tree.files[folder] if name.lower().endswith(".xml")]


def _is_voc(path: str) -> bool:
    try:
        return root_of(path).tag == "annotation"
    except (OSError, ValueError):
        return False


def voc_layout(tree: Tree, folders: list[str]) -> Layout:
    """Return the splits and classes of folders of VOC files.

    Raises:
        DatasetError: when two folders have the same split, or the images of a folder are not found.
    """
    files = {folder: _xml_files(tree, folder) for folder in folders}
    names = class_names_of(path for paths in files.values() for path in paths)
    if not names:
        raise DatasetError(f"{tree.root}: its XML files have no object with a name")
    chosen, unused = first_of_each_split(tree, folders, "folders of VOC files")
    remarks = [f"{tree.relative(folder)} is not used: its name has no split, unlike others" for folder in unused]
    parts = {split: _part(tree, folder, files[folder], split, names) for split, folder in chosen.items()}
    if list(parts) == ["all"]:
        lists = _split_lists(tree, files[chosen["all"]])
        if lists:
            full = parts["all"]
            parts = {
                split: Part(path, full.images, partial(full.read, split_file=path)) for split, path in lists.items()
            }
    return Layout("Pascal VOC", names, tuple(range(1, len(names) + 1)), parts, tuple(remarks))


def _part(tree: Tree, folder: str, files: list[str], split: str, names: tuple[str, ...]) -> Part:
    images = _image_folder(tree, folder, files, None if split == "all" else split)
    one_based = _is_official(files[0])
    return Part(folder, images, partial(_read, folder, images, class_names=names, one_based=one_based))


def _read(
    folder: str,
    images: str,
    *,
    name: str,
    masks: bool,
    log,
    class_names: tuple[str, ...],
    one_based: bool,
    split_file: str | None = None,
):
    if masks:
        raise DatasetError(f"{folder}: Pascal VOC files have boxes only, no masks")
    return read_voc(folder, images, split_file, class_names, name=name, one_based=one_based, log=log)


def _image_folder(tree: Tree, folder: str, files: list[str], split: str | None) -> str:
    """Return the folder that has most of the images of the XML files; the nearest one if there are several."""
    stems = {os.path.splitext(os.path.basename(path))[0] for path in files}

    def rank(candidate: str) -> tuple[int, bool, bool, int]:
        matches = len(stems & {os.path.splitext(name)[0] for name in tree.images(candidate)})
        other_split = tree.split_of(candidate) not in (split, None)
        return -matches, other_split, candidate != folder, candidate.count(os.sep)

    best = min(tree.files, key=rank)
    if not rank(best)[0]:
        example = os.path.basename(files[0])
        raise DatasetError(f"{folder}: none of its images is in {tree.root} or below it, e.g. that of {example}")
    return best


def _split_lists(tree: Tree, files: list[str]) -> dict[str, str]:
    """Return split -> text file that lists the images of the split; empty when there are no such lists."""
    stems = {os.path.splitext(os.path.basename(path))[0] for path in files}
    lists: dict[str, str] = {}
    for path in tree.paths(".txt"):
        name = os.path.splitext(os.path.basename(path))[0].lower()
        split = _LISTS.get(name)
        if split and split not in lists and any(line.strip() in stems for line in split_lines(path)[:20]):
            lists[split] = path
    trainval = next((path for path in tree.paths("trainval.txt")), None)
    if "train" not in lists and trainval is not None:
        lists["train"] = trainval
    return lists if "train" in lists or "val" in lists or "test" in lists else {}


def _is_official(path: str) -> bool:
    """Return whether a file belongs to the published VOC data sets, whose coordinates count from 1."""
    try:
        return (root_of(path).findtext("source/database") or "").strip().startswith("The VOC")
    except (OSError, ValueError):
        return False
