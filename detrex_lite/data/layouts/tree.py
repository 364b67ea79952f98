"""Lists the files of a folder and of its subfolders, and finds splits by their names."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..faults import DatasetError
from ..image import IMAGE_EXTENSIONS

SPLITS: tuple[str, ...] = ("train", "val", "test")

_SPLIT_OF = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_MAX_DEPTH = 5  # of subfolders
_SKIPPED = ("__MACOSX", "node_modules")
_ANNOTATIONS = (".json", ".xml", ".txt", ".csv", ".yaml", ".yml", ".names")


class Tree:
    """A folder with all its subfolders that are not hidden, down to a depth of five.

    Args:
        root: the folder.

    Attributes:
        root: the folder.
        files: folder -> sorted names of its files.

    Raises:
        DatasetError: when the folder does not exist.
    """

    def __init__(self, root: str):
        if not os.path.isdir(root):
            raise DatasetError(f"folder {root} does not exist (looked from {os.getcwd()})")
        self.root = root
        self.files: dict[str, list[str]] = {}
        self.links: list[str] = []
        self._walk(root, _MAX_DEPTH, frozenset())

    def _walk(self, folder: str, depth: int, parents: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in parents:  # a link to a parent folder
            return
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DatasetError(f"folder {folder} cannot be read: {error}") from error
        self.files[folder] = [entry.name for entry in entries if not entry.is_dir() and entry.name[0] != "."]
        for entry in entries:
            if depth and entry.is_dir() and entry.name[0] != "." and entry.name not in _SKIPPED:
                self._walk(entry.path, depth - 1, parents | {real})

    def paths(self, *extensions: str) -> list[str]:
        """Return all files with one of the extensions; files of less nested folders come first."""
        matching = [
            os.path.join(folder, name)
            for folder, names in self.files.items()
            for name in names
            if name.lower().endswith(extensions)
        ]
        return sorted(matching, key=lambda path: (path.count(os.sep), path))

    def images(self, folder: str) -> list[str]:
        """Return the names of the images in one folder."""
        return [name for name in self.files.get(folder, ()) if name.lower().endswith(IMAGE_EXTENSIONS)]

    def relative(self, path: str) -> str:
        """Return a path relative to the root, for messages."""
        return os.path.relpath(path, self.root)

    def split_of(self, path: str) -> str | None:
        """Return the split in the name of a file or folder, or in that of its nearest parent; None without a split."""
        parts = Path(os.path.relpath(path, self.root)).parts
        for part in reversed(parts):
            if part not in (".", "..") and (split := split_of_name(part)) is not None:
                return split
        return None

    def stamp(self) -> tuple[int, int]:
        """Return a value that changes when a file is added or removed, or an annotation file is written."""
        newest, number = 0, 0
        for folder, names in self.files.items():
            for name in names:
                if is_split_file(name):
                    continue
                number += 1
                if name.lower().endswith(_ANNOTATIONS):
                    newest = max(newest, _modification_time(os.path.join(folder, name)))
        return number, newest


def _modification_time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:  # a broken link
        return 0


def split_of_name(name: str) -> str | None:
    """Return the split in a file name: `val` for `instances_val2017.json` or `valid`, None for `images`."""
    for word in re.split(r"[^a-z]+", os.path.splitext(name)[0].lower()):
        if word in _SPLIT_OF:
            return _SPLIT_OF[word]
    return None


def split_file_name(seed: int, val_share: float) -> str:
    """Return the name of the file that stores a random split."""
    return f"split_seed{seed}_val{val_share:g}.json"


def is_split_file(name: str) -> bool:
    return re.fullmatch(r"split_seed-?\d+_val[\d.e-]+\.json", name) is not None


def image_folder(tree: Tree, file_names: Sequence[str], annotations: str, split: str | None) -> str:
    """Find the folder that the file names of an annotation file are relative to.

    Args:
        tree: the root folder.
        file_names: some of the file names in the annotation file.
        annotations: the file or folder of annotations; the search begins next to it.
        split: the split of the images; folders of this split are searched before others.

    Raises:
        DatasetError: when none of the files is found.
    """
    sample = list(dict.fromkeys(file_names))[:50]
    start = annotations if os.path.isdir(annotations) else os.path.dirname(annotations)

    def distance(folder: str) -> tuple[bool, bool, bool, int, str]:
        other_split = tree.split_of(folder) not in (split, None)
        # Masks of segments have the names of their images.
        unlikely = not any(word in tree.relative(folder).lower() for word in ("image", "img", "jpeg", "photo"))
        return folder != start, other_split, unlikely, len(Path(os.path.relpath(folder, start)).parts), folder

    best, most = "", 0
    for folder in sorted(tree.files, key=distance):
        number = sum(os.path.isfile(os.path.join(folder, name)) for name in sample)
        if number > most:
            best, most = folder, number
    if not most:
        raise DatasetError(
            f"{annotations}: none of its images is in {tree.root} or below it, e.g. {sample[0] if sample else '(none)'}"
        )
    return best


def first_of_each_split(
    tree: Tree, paths: Iterable[str], what: str, preferred: str = ""
) -> tuple[dict[str, str], list[str]]:
    """Assign one path to each split, by its name; a path without a split in its name gets the split `all`.

    Args:
        tree: the root folder.
        paths: files or folders.
        what: description of the paths in messages, such as "COCO files".
        preferred: when a split has several paths, those whose names begin with this are used.

    Returns:
        Split -> path, and the paths that are left out because, unlike others, they have no split in their names.

    Raises:
        DatasetError: when two paths have the same split.
    """
    by_split: dict[str, list[str]] = {}
    for path in paths:
        by_split.setdefault(tree.split_of(path) or "all", []).append(path)
    unused = by_split.pop("all", []) if len(by_split) > 1 else []
    chosen = {}
    for split, candidates in by_split.items():
        better = [path for path in candidates if preferred and os.path.basename(path).startswith(preferred)]
        candidates = better if better else candidates
        if len(candidates) > 1:
            names = " and ".join(tree.relative(path) for path in candidates[:3])
            where = "without the name of a split" if split == "all" else f"of the split {split!r}"
            raise DatasetError(
                f"{tree.root} has {len(candidates)} {what} {where}: {names}. Name them train, val and test, move those "
                "that do not belong to the data set elsewhere, or give the path of one of them"
            )
        chosen[split] = candidates[0]
    return chosen, unused
