"""The files of a folder, from one walk through it, and what their names say."""

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
_MAX_DEPTH = 5  # of folders below the given one
_SKIPPED = ("__MACOSX", "node_modules")
_ANNOTATIONS = (".json", ".xml", ".txt", ".csv", ".yaml", ".yml", ".names")


class Tree:
    """A folder with all folders below it that are not hidden, down to a depth of five.

    Args:
        root: the folder.

    Attributes:
        root: the folder.
        files: the names of the files of each folder, sorted, by the folder's path.

    Raises:
        DatasetError: when there is no such folder.
    """

    def __init__(self, root: str):
        if not os.path.isdir(root):
            raise DatasetError(f"folder {root} does not exist (looked from {os.getcwd()})")
        self.root = root
        self.files: dict[str, list[str]] = {}
        self.links: list[str] = []
        self._walk(root, _MAX_DEPTH, frozenset())

    def _walk(self, folder: str, depth: int, above: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in above:  # a link to a folder above it
            return
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DatasetError(f"folder {folder} cannot be read: {error}") from error
        self.files[folder] = [entry.name for entry in entries if not entry.is_dir() and entry.name[0] != "."]
        for entry in entries:
            if depth and entry.is_dir() and entry.name[0] != "." and entry.name not in _SKIPPED:
                self._walk(entry.path, depth - 1, above | {real})

    def paths(self, *extensions: str) -> list[str]:
        """All files with one of the extensions, those of higher folders first."""
        found = [
            os.path.join(folder, name)
            for folder, names in self.files.items()
            for name in names
            if name.lower().endswith(extensions)
        ]
        return sorted(found, key=lambda path: (path.count(os.sep), path))

    def images(self, folder: str) -> list[str]:
        """The names of the images in one folder."""
        return [name for name in self.files.get(folder, ()) if name.lower().endswith(IMAGE_EXTENSIONS)]

    def relative(self, path: str) -> str:
        """A path as seen from the root, for messages."""
        return os.path.relpath(path, self.root)

    def split_of(self, path: str) -> str | None:
        """The split that a file or folder belongs to by its name, or by that of the nearest folder that has one."""
        parts = Path(os.path.relpath(path, self.root)).parts
        for part in reversed(parts):
            if part not in (".", "..") and (split := split_of_name(part)) is not None:
                return split
        return None

    def stamp(self) -> tuple[int, int]:
        """Changes when a file is added or removed, or one of annotations is written."""
        newest, number = 0, 0
        for folder, names in self.files.items():
            for name in names:
                if is_split_file(name):
                    continue
                number += 1
                if name.lower().endswith(_ANNOTATIONS):
                    newest = max(newest, _changed(os.path.join(folder, name)))
        return number, newest


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:  # a link that leads nowhere
        return 0


def split_of_name(name: str) -> str | None:
    """The split that a file name says: `val` for `instances_val2017.json` or `valid`, None for `images`."""
    for word in re.split(r"[^a-z]+", os.path.splitext(name)[0].lower()):
        if word in _SPLIT_OF:
            return _SPLIT_OF[word]
    return None


def split_file_name(seed: int, val_share: float) -> str:
    """The name of the file that holds a split that was drawn."""
    return f"split_seed{seed}_val{val_share:g}.json"


def is_split_file(name: str) -> bool:
    return re.fullmatch(r"split_seed-?\d+_val[\d.e-]+\.json", name) is not None


def image_folder(tree: Tree, file_names: Sequence[str], annotations: str, split: str | None) -> str:
    """The folder that the file names of an annotation file are relative to, found by looking.

    Args:
        tree: the whole folder.
        file_names: some of those that the file names.
        annotations: the file or folder of annotations; images are looked for beside it first.
        split: whose images they are; folders of this split come before others.

    Raises:
        DatasetError: when not one of the files is anywhere.
    """
    wanted = list(dict.fromkeys(file_names))[:50]
    start = annotations if os.path.isdir(annotations) else os.path.dirname(annotations)

    def distance(folder: str) -> tuple[bool, bool, int, str]:
        other_split = tree.split_of(folder) not in (split, None)
        return folder != start, other_split, len(Path(os.path.relpath(folder, start)).parts), folder

    best, most = "", 0
    for folder in sorted(tree.files, key=distance):
        number = sum(os.path.isfile(os.path.join(folder, name)) for name in wanted)
        if number > most:
            best, most = folder, number
    if not most:
        raise DatasetError(
            f"{annotations}: none of its images is in {tree.root} or below it, e.g. {wanted[0] if wanted else '(none)'}"
        )
    return best


def first_of_each_split(
    tree: Tree, paths: Iterable[str], what: str, preferred: str = ""
) -> tuple[dict[str, str], list[str]]:
    """One path for each split, by the names; `all` stands for a path that names no split.

    Args:
        tree: the whole folder.
        paths: files or folders.
        what: they are, for messages.
        preferred: where several are of one split, those whose names begin with this are taken.

    Returns:
        The paths by split, and those that are left out because they name no split where others do.

    Raises:
        DatasetError: when two are of the same split.
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
