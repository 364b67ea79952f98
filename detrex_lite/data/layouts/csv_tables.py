"""Recognises and reads folders with CSV tables of boxes."""

import os
from collections import Counter
from functools import lru_cache, partial
from typing import Any

from ..csv_table import CsvTable, read_csv, read_table
from ..dataset import DetectionDataset
from ..faults import DatasetError, FaultLog, check_class_names
from ..image import IMAGE_EXTENSIONS
from .found import Layout, Part
from .tree import Tree, first_of_each_split, split_of_name


def csv_tables(tree: Tree) -> list[str]:
    """Return the CSV files whose first line names the columns of boxes."""
    return [path for path in tree.paths(".csv") if _table(path) is not None]


def _table(path: str) -> CsvTable | None:
    try:
        return _table_of(path, os.stat(path).st_mtime_ns)
    except OSError:  # a broken link
        return None


@lru_cache(maxsize=16)
def _table_of(path: str, stamp: int) -> CsvTable | None:
    return read_table(path)


def csv_layout(tree: Tree, paths: list[str]) -> Layout:
    """Return the splits and classes of tables; a column `split` is used when there is only one table.

    Raises:
        DatasetError: when a table does not name the columns of boxes, or its images are not found.
    """
    chosen, unused = first_of_each_split(tree, paths, "CSV tables")
    remarks = [f"{tree.relative(path)} is not used: its name has no split, unlike others" for path in unused]
    tables = {split: _required(path) for split, path in chosen.items()}
    class_names = {name for table in tables.values() for name in table.values(table.columns.class_name)}
    if not class_names:
        raise DatasetError(f"{tree.root}: its CSV tables have no objects")
    names = check_class_names(sorted(class_names))
    assert names is not None
    parts: dict[str, Part] = {}
    for split, table in tables.items():
        parts.update(_parts(tree, table, split, names, remarks))
    return Layout("CSV", names, tuple(range(1, len(names) + 1)), parts, tuple(remarks))


def _required(path: str) -> CsvTable:
    table = _table(path)
    if table is None:
        with open(path, encoding="utf-8", errors="replace") as file:
            first = file.readline().strip()
        raise DatasetError(
            f"{path}: the first line must name the columns of the file (filename or image), of the class (class or "
            f"label) and of the box (xmin, ymin, xmax, ymax, or x, y, width, height), got {first[:120]!r}"
        )
    return table


def _parts(tree: Tree, table: CsvTable, split: str, names: tuple[str, ...], remarks: list[str]) -> dict[str, Part]:
    """Return the parts of one table: several if a column has the split of each image, otherwise one."""
    folder, files, unlisted = _files_of(tree, table, None if split == "all" else split)
    normalised = table.is_normalised()
    if normalised:
        remarks.append(f"{tree.relative(table.path)} has coordinates in 0..1: they are fractions of the image's size")
    if unlisted:
        remarks.append(
            f"{unlisted} images in {tree.relative(folder)} are not used: {tree.relative(table.path)} does not list "
            "them (an image without objects needs a row that has only its file)"
        )
    reader = partial(_read, table, tree.root, names, files, normalised=normalised)
    column = table.columns.split
    if split != "all" or column is None:
        return {split: Part(table.path, folder, reader)}
    values: dict[str, str] = {}
    for value in dict.fromkeys(table.values(column)):
        part_split = split_of_name(value)
        if part_split is None or part_split in values:
            raise DatasetError(f"{table.path}: the column {column!r} has {value!r}: a split is train, val or test")
        values[part_split] = value
    if any(not row[column] for _, row in table.rows):
        line = next(line for line, row in table.rows if not row[column])
        raise DatasetError(f"{table.path}: line {line}: its {column} is empty")
    return {part_split: Part(table.path, folder, partial(reader, split=value)) for part_split, value in values.items()}


def _read(table: CsvTable, *arguments: Any, masks: bool, log: FaultLog, **options: Any) -> DetectionDataset:
    if masks:
        raise DatasetError(f"{table.path}: CSV tables have boxes only, no masks")
    return read_csv(table, *arguments, log=log, **options)


def _files_of(tree: Tree, table: CsvTable, split: str | None) -> tuple[str, dict[str, str], int]:
    """Find the images of a table.

    A value in the column of files is the path of a file, its name, or its name without the extension.

    Returns:
        The folder that has most of the images; value -> file relative to the root; and the number of images in the
        folder that the table does not list.
    """
    values = list(dict.fromkeys(table.values(table.columns.file)))
    start = os.path.dirname(table.path)

    def rank(folder: str) -> tuple[int, bool, bool, int]:
        other_split = tree.split_of(folder) not in (split, None)
        return -len(_matches(tree, folder, values)), other_split, folder != start, folder.count(os.sep)

    best = min(tree.files, key=rank)
    files: dict[str, str] = {}
    for folder in sorted(tree.files, key=lambda folder: (folder != best, folder)):
        for value, name in _matches(tree, folder, [value for value in values if value not in files]).items():
            files[value] = tree.relative(os.path.join(folder, name))
    if not files:
        example = f", e.g. {values[0]}" if values else ""
        raise DatasetError(f"{table.path}: none of its images is in {tree.root} or below it{example}")
    used = set(files.values())
    [(most, _)] = Counter(os.path.dirname(name) for name in files.values()).most_common(1)
    best = os.path.join(tree.root, most) if most else tree.root
    return best, files, sum(tree.relative(os.path.join(best, name)) not in used for name in tree.images(best))


def _matches(tree: Tree, folder: str, values: list[str]) -> dict[str, str]:
    """Return value -> file for the values that have a file in a folder."""
    names = set(tree.images(folder))
    stems = {os.path.splitext(name)[0]: name for name in sorted(names, reverse=True)}
    matches = {}
    for value in values:
        base = os.path.basename(value.replace("\\", "/"))
        if os.path.dirname(value) and os.path.isfile(os.path.join(folder, value)):
            matches[value] = value
        elif base in names:
            matches[value] = base
        elif base in stems and not base.lower().endswith(IMAGE_EXTENSIONS):
            matches[value] = stems[base]
    return matches
