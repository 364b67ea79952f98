"""Reads CSV tables with a box in each row, with the column names that labelling tools and data sets use."""

import csv
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import did_you_mean
from .dataset import DetectionDataset
from .faults import MAX_SIDE, DatasetError, FaultLog, integer, shown
from .image import read_image_size
from .packing import AnnotationTable, pack

logger = logging.getLogger(__name__)

_FILE = (
    *("filename", "file_name", "file", "image", "image_name", "image_file", "image_path", "img", "img_path"),
    *("path", "filepath", "file_path", "image_id", "imageid"),
)
_CLASS = ("class", "class_name", "label", "label_name", "labelname", "category", "category_name", "name")
_SPLIT = ("split", "subset", "set")
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("left", "top", "right", "bottom"),
)
_WITH_SIZE = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("left", "top", "width", "height"),
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
)
_IMAGE_SIZE = (("image_height", "image_width"), ("img_height", "img_width"), ("height", "width"))


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are used of a table.

    Attributes:
        file: the column of image files.
        class_name: the column of class names.
        box: the four columns of the box: one corner, and the opposite corner or, with `has_size`, width and height.
        has_size: whether boxes have width and height in place of the opposite corner.
        image_size: the columns of the image's height and width in pixels; None when the table does not have them.
        split: the column of the split that an image belongs to; None when the table does not have it.
    """

    file: str
    class_name: str
    box: tuple[str, ...]
    has_size: bool
    image_size: tuple[str, str] | None
    split: str | None


@dataclass(frozen=True)
class CsvTable:
    """The rows of a CSV file with boxes, as text.

    Attributes:
        path: path of the file.
        columns: names of the columns that are used.
        rows: line number and values by column, for each row.
    """

    path: str
    columns: Columns
    rows: tuple[tuple[int, dict[str, str]], ...]

    def values(self, column: str) -> Iterator[str]:
        """Yield the values of a column that are not empty."""
        return (row[column] for _, row in self.rows if row[column])

    def is_normalised(self) -> bool:
        """Return whether coordinates are fractions of the image's size: all are in 0..1, and some are not integers."""
        numbers = []
        for _, row in self.rows:
            for column in self.columns.box:
                try:
                    numbers.append(float(row[column] or 0))
                except ValueError:  # `read_csv` reports it
                    continue
        return all(0 <= number <= 1 for number in numbers) and any(number % 1 for number in numbers)


def columns_of(header: Sequence[str]) -> Columns | None:
    """Return the columns of a table of boxes; None when the columns of files, classes or boxes are missing."""
    names = {_normalised_name(name) for name in header}
    file, class_name = (next((name for name in known if name in names), None) for known in (_FILE, _CLASS))
    corners = next((box for box in _CORNERS if names.issuperset(box)), None)
    box = corners or next((box for box in _WITH_SIZE if names.issuperset(box)), None)
    if file is None or class_name is None or box is None:
        return None
    size = next((pair for pair in _IMAGE_SIZE if names.issuperset(pair) and not set(pair) & set(box)), None)
    return Columns(file, class_name, box, corners is None, size, next((name for name in _SPLIT if name in names), None))


def _normalised_name(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def read_table(path: str) -> CsvTable | None:
    """Read a CSV file with commas, semicolons or tabs; None when its first line does not name the columns of boxes.

    Raises:
        DatasetError: when the file cannot be read, or has two columns of the same name.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read (is it text in UTF-8?): {error}") from error
    lines = text.splitlines()
    for delimiter in ",;\t":
        reader = csv.reader(lines, delimiter=delimiter)
        try:
            header = next(reader, [])
            columns = columns_of(header)
            if columns is None:
                continue
            names = [_normalised_name(name) for name in header]
            if repeated_names := sorted({name for name in names if name and names.count(name) > 1}):
                raise DatasetError(f"{path} has the column {repeated_names[0]!r} twice")
            rows = []
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    cells = [cell.strip() for cell in cells] + [""] * (len(names) - len(cells))
                    rows.append((reader.line_num, dict(zip(names, cells, strict=False))))
        except csv.Error as error:
            raise DatasetError(f"{path}: line {reader.line_num}: {error}") from error
        return CsvTable(path, columns, tuple(rows))
    return None


def read_csv(
    table: CsvTable,
    image_root: str,
    class_names: Sequence[str],
    files: Mapping[str, str],
    *,
    split: str | None = None,
    normalised: bool = False,
    name: str,
    log: FaultLog,
) -> DetectionDataset:
    """Build a data set from the rows of a table. A row that has only a file is an image without objects.

    When the table does not have the sizes of images, images whose header cannot be read are left out with a warning.
    Ids of images and annotations count from 1 in the order of the file, category ids in the order of the classes.

    Args:
        table: the result of `read_table`.
        image_root: the folder that file names are relative to.
        class_names: K names.
        files: value in the column of files -> file name.
        split: read only the rows with this value in the column of splits.
        normalised: coordinates are fractions of the image's size.
        name: name of the data set.
        log: collects the faults, each with file and line.

    Raises:
        DatasetError: at the first fault, when the log is strict.
    """
    columns = table.columns
    classes = {class_name: k for k, class_name in enumerate(class_names)}
    labels: list[str] = []
    positions: dict[str, int | None] = {}
    annotations = AnnotationTable(lambda row: labels[row])
    for line, row in table.rows:
        if split is not None and row[columns.split or ""] != split:
            continue
        where = f"{table.path}: line {line}"
        try:
            owner = _image_of(row, columns, image_root, files, positions, annotations, log)
            if owner is None or not any(row[column] for column in (columns.class_name, *columns.box)):
                continue
            if row[columns.class_name] not in classes:
                near = did_you_mean(row[columns.class_name], classes)
                raise ValueError(f"its {columns.class_name} is {row[columns.class_name]!r}, which is not a class{near}")
            box = _box_of(row, columns, annotations.sizes[owner] if normalised else (1, 1))
        except ValueError as error:
            file = files.get(row[columns.file], row[columns.file])
            log.error("malformed line", where, str(error), image=os.path.join(image_root, file))
            continue
        labels.append(f"{where} ({row[columns.class_name]})")
        annotations.add_box(
            owner,
            box,
            class_index=classes[row[columns.class_name]],
            iscrowd=False,
            area=float("nan"),
            annotation_id=len(labels),
        )
    broken = sum(position is None for position in positions.values())
    if broken and log.strict:
        logger.warning("%s: %d images are left out because their size cannot be read.", table.path, broken)
    return pack(
        annotations,
        name=name,
        where=table.path,
        class_names=class_names,
        category_ids=range(1, len(class_names) + 1),
        image_root=image_root,
        has_annotations=True,
        log=log,
    )


def _image_of(
    row: Mapping[str, str],
    columns: Columns,
    image_root: str,
    files: Mapping[str, str],
    positions: dict[str, int | None],
    annotations: AnnotationTable,
    log: FaultLog,
) -> int | None:
    """Return the position of a row's image, which is added if it is new; None for an image that is left out."""
    value = row[columns.file]
    if not value:
        raise ValueError(f"its {columns.file} is empty")
    file_name = files.get(value, value)
    if file_name in positions:
        return positions[file_name]
    positions[file_name] = None
    size = (0, 0)
    if columns.image_size is not None:
        texts = [row[column] for column in columns.image_size]
        sides = [
            integer(_number(text or "0", column), column, low=0, high=MAX_SIDE)
            for text, column in zip(texts, columns.image_size, strict=True)
        ]
        size = (sides[0], sides[1])
    if not all(size):
        path = os.path.join(image_root, file_name)
        try:
            size = read_image_size(path)
        except DatasetError as error:
            log.repaired("image unreadable", path, str(error), image=path)
            return None
    positions[file_name] = len(annotations.file_names)
    annotations.add_image(file_name, len(annotations.file_names) + 1, size)
    return positions[file_name]


def _box_of(row: Mapping[str, str], columns: Columns, scale: tuple[int, int]) -> tuple[float, ...]:
    """Return x0, y0, x1, y1 in pixels; `scale` is the (height, width) in pixels of one unit."""
    height, width = scale
    first, second, third, fourth = (_number(row[column], column) for column in columns.box)
    if columns.has_size:
        third, fourth = first + third, second + fourth
    return first * width, second * height, third * width, fourth * height


def _number(text: str, column: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"its {column} must be a number, got {shown(text)}") from None
