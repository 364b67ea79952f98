"""Recognises and reads folders with YOLO labels that have a data.yaml (Ultralytics, Roboflow) or a list of classes."""

import glob
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ..faults import DatasetError, check_class_names, integer, shown
from ..image import IMAGE_EXTENSIONS
from ..voc import split_lines
from ..yolo import has_polygons, label_path, read_yolo
from .found import Layout, Part
from .tree import Tree, first_of_each_split

_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAME_FILES = ("classes.txt", "obj.names", "classes.names", "labels.txt")


def yolo_files(tree: Tree) -> list[str]:
    """Return the data.yaml of a folder, or its list of class names if it has label files; else an empty list."""
    yamls = [path for path in tree.paths(".yaml", ".yml") if _is_data_yaml(path)]
    if yamls:
        return yamls
    names = [path for path in tree.paths(".txt", ".names") if os.path.basename(path).lower() in _NAME_FILES]
    labelled = (image for folder in tree.files for image in _paths(tree, folder)[:20])
    has_labels = any(os.path.isfile(label_path(image)) for image in labelled)
    if has_labels and not names and not tree.paths(".xml", ".json", ".csv"):
        raise DatasetError(
            f"{tree.root} has images with YOLO label files and no class names: write data.yaml (names, train, val), "
            "or classes.txt with a name in each line"
        )
    return names[:1] if has_labels else []


def yolo_layout(tree: Tree, paths: list[str]) -> Layout:
    """Return the splits and classes of a data.yaml, or of folders that have a list of class names.

    Raises:
        DatasetError: when a path in the file does not exist, or the file is malformed.
    """
    if not paths[0].lower().endswith((".yaml", ".yml")):
        return _without_yaml(tree, paths[0])
    if len(paths) > 1:
        several = " and ".join(tree.relative(path) for path in paths[:3])
        raise DatasetError(f"{tree.root} has several files like a data.yaml: {several}; give the path of one of them")
    path, content = paths[0], _read_yaml(paths[0])
    if "kpt_shape" in content:
        raise DatasetError(f"{path}: its labels are poses with key points (kpt_shape), which are not supported")
    names = _class_names(path, content)
    base = _base(path, content)
    parts, remarks = {}, []
    for key, split in _SPLIT_KEYS.items():
        if content.get(key) in (None, "", []):
            continue
        if split in parts:
            raise DatasetError(f"{path}: {key!r} is the split {split!r}, which another key already defines")
        try:
            images = _images_of(path, key, content[key], base)
        except _MissingPathError as error:
            if split != "test":
                raise
            remarks.append(f"The test set is left out: {error}")  # exports name a test set even if they do not have one
            continue
        parts[split] = _part(path, key, images, base, names)
    if not parts:
        raise DatasetError(f"{path} names no images: it has none of the keys train, val and test")
    return Layout("YOLO", names, tuple(range(len(names))), parts, tuple(remarks))


class _MissingPathError(DatasetError):
    """A path of a data.yaml that does not exist."""


def _part(path: str, key: str, images: list[str], base: str, names: tuple[str, ...]) -> Part:
    [(folder, _)] = Counter(os.path.dirname(image) for image in images).most_common(1)
    return Part(
        path,
        folder,
        partial(_read, images, base, names, where=f"{path}: {key}"),
        partial(has_polygons, images),
    )


def _read(images: list[str], base: str, names: tuple[str, ...], **options: Any) -> Any:
    return read_yolo(images, base, names, **options)


def _is_data_yaml(path: str) -> bool:
    try:
        content = _read_yaml(path)
    except DatasetError:
        return os.path.basename(path).lower() in ("data.yaml", "data.yml")  # its reader reports the fault
    return "names" in content and any(key in content for key in _SPLIT_KEYS)


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds a {type(content).__name__}, not keys with values (names, train, val)")
    return content


def _class_names(path: str, content: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names in the order of their numbers.

    Raises:
        DatasetError: when names are neither a list nor numbered from 0 without gaps, or `nc` differs from their number.
    """
    names = content.get("names")
    if isinstance(names, dict):
        try:
            numbers = sorted(integer(key, "names") for key in names)
        except ValueError as error:
            raise DatasetError(f"{path}: {error}") from None
        if numbers != list(range(len(numbers))):
            raise DatasetError(f"{path}: the numbers of 'names' must be 0, 1, 2, ... without gaps, got {numbers}")
        names = [names[number] for number in numbers]
    if not isinstance(names, list):
        raise DatasetError(f"{path}: 'names' must be a list of class names, or names by number, got {shown(names)}")
    # YAML reads a name such as 1 as a number, whose digits are the name; names such as `yes` and `no` become booleans.
    if wrong := [name for name in names if not isinstance(name, str | int | float)]:
        raise DatasetError(f"{path}: 'names' holds {shown(wrong[0])}, which is not a name")
    if unquoted := [name for name in names if isinstance(name, bool)]:
        raise DatasetError(f"{path}: 'names' holds {unquoted[0]}, a truth value: put quotes around the name")
    try:
        checked = check_class_names([str(name) for name in names])
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    assert checked is not None
    if "nc" in content and content["nc"] != len(checked):
        raise DatasetError(f"{path}: nc is {shown(content['nc'])}, but 'names' has {len(checked)} names")
    return checked


def _base(path: str, content: dict[str, Any]) -> str:
    """Return the folder that the paths of a data.yaml are relative to."""
    folder = os.path.dirname(path)
    base_path = content.get("path")
    if base_path in (None, "", "."):
        return folder
    if not isinstance(base_path, str):
        raise DatasetError(f"{path}: 'path' must be the path of a folder, got {shown(base_path)}")
    base = os.path.join(folder, os.path.expanduser(base_path))
    if os.path.isdir(base):
        return os.path.normpath(base)
    # The path is from another machine or folder, and the paths of the splits exist next to the file.
    if any(os.path.exists(os.path.join(folder, entry)) for entry in _entries(content.get("train"))):
        return folder
    raise DatasetError(
        f"{path}: its 'path' {base_path} does not exist ({base}); remove the key to look next to the file"
    )


def _entries(value: Any) -> list[str]:
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, str)]


def _images_of(path: str, key: str, value: Any, base: str) -> list[str]:
    """Return the images of a split, from folders (with subfolders), text files that list images, or patterns."""
    entries = value if isinstance(value, list) else [value]
    images: list[str] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise DatasetError(f"{path}: {key!r} must be a path or a list of paths, got {shown(entry)}")
        place = _place(path, key, entry, base)
        if os.path.isdir(place):
            images += _images_below(place)
        elif place.lower().endswith(".txt"):
            images += _listed(place)
        elif glob.has_magic(place):
            images += sorted(name for name in glob.glob(place, recursive=True) if _is_image(name))
        else:
            raise DatasetError(f"{path}: {key} {entry} is neither a folder nor a .txt file that lists images")
    if not images:
        raise _MissingPathError(f"{path}: {key} {value} holds no image")
    return list(dict.fromkeys(images))


def _place(path: str, key: str, entry: str, base: str) -> str:
    """Return the path of an entry. Roboflow writes ../train/images for the folder train/images next to the file."""
    stripped = entry
    while stripped.startswith("../"):
        stripped = stripped[3:]
    tried = [os.path.normpath(os.path.join(base, os.path.expanduser(entry))) for entry in (entry, stripped)]
    for place in tried:
        if os.path.exists(place) or (glob.has_magic(place) and glob.glob(place, recursive=True)):
            return place
    raise _MissingPathError(f"{path}: {key} {entry} does not exist (looked for {' and '.join(dict.fromkeys(tried))})")


def _is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_EXTENSIONS)


def _images_below(folder: str) -> list[str]:
    tree = Tree(folder)
    return [image for subfolder in sorted(tree.files) for image in _paths(tree, subfolder)]


def _paths(tree: Tree, folder: str) -> list[str]:
    return [os.path.join(folder, name) for name in tree.images(folder)]


def _listed(file: str) -> list[str]:
    """Return the images that a text file lists: one path per line, relative to the file's folder.

    Raises:
        DatasetError: when an image does not exist.
    """
    images = []
    for number, line in enumerate(split_lines(file), 1):
        if not line.strip():
            continue
        image = os.path.normpath(os.path.join(os.path.dirname(file), line.strip()))
        if not os.path.isfile(image):
            raise DatasetError(f"{file}: line {number}: image {line.strip()} does not exist ({image})")
        images.append(image)
    return images


def _without_yaml(tree: Tree, names_file: str) -> Layout:
    """Return the layout of folders of images with labels, for which a text file has the class names."""
    lines = [line.strip() for line in split_lines(names_file)]
    while lines and not lines[-1]:
        lines.pop()
    try:
        names = check_class_names(lines)
    except DatasetError as error:
        raise DatasetError(f"{names_file}: {error}") from None
    assert names is not None
    folders = [
        folder
        for folder in tree.files
        if any(os.path.isfile(label_path(image)) for image in _paths(tree, folder)[:200])
    ]
    chosen, unused = first_of_each_split(tree, folders, "folders of images with labels")
    parts = {}
    for split, folder in chosen.items():
        images = _paths(tree, folder)
        reader = partial(_read, images, tree.root, names, where=folder)
        labels = os.path.dirname(label_path(images[0]))
        parts[split] = Part(labels, folder, reader, partial(has_polygons, images))
    remarks = [f"{tree.relative(folder)} is not used: its name has no split, unlike others" for folder in unused]
    return Layout("YOLO", names, tuple(range(len(names))), parts, tuple(remarks))
