"""Faults of data sets: one rule each, used by the readers (stop at the first) and by the check (list all)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Rounding of coordinates to one decimal moves an edge by up to this much; it is mended without a word.
EDGE_TOLERANCE = 0.1

# Reasons for which a box is left out, by the codes of `apply_box_rules` less one.
DROP_REASONS = ("not finite", "without area", "outside the image")


class DatasetError(ValueError):
    """A data set that cannot be read as it is; the message names the file and the annotation."""


@dataclass(frozen=True)
class Fault:
    """One fault of a data set.

    Attributes:
        kind: a short name to count by, e.g. `unknown category`.
        where: the file and the annotation.
        message: what is wrong there.
    """

    kind: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class FaultLog:
    """What a reader reports faults to.

    Args:
        strict: raise at the first fault that cannot be repaired; otherwise collect them all in `faults`, and
            the reader goes on without the faulty entry.
    """

    def __init__(self, *, strict: bool = True):
        self.strict = strict
        self.faults: list[Fault] = []

    def error(self, kind: str, where: str, message: str) -> None:
        """A fault that only the user can repair.

        Raises:
            DatasetError: when strict.
        """
        fault = Fault(kind, where, message)
        if self.strict:
            raise DatasetError(str(fault))
        self.faults.append(fault)

    def repaired(self, kind: str, where: str, message: str) -> None:
        """A fault that the reader deals with: a box that is clipped or left out."""
        self.faults.append(Fault(kind, where, message))


def apply_box_rules(
    boxes: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip boxes to their images and find those that cannot be used.

    Args:
        boxes: (T, 4) float64 xyxy in pixels.
        heights: (T,) height of each box's image.
        widths: (T,) width of each box's image.

    Returns:
        The clipped boxes, (T, 4) float32; (T,) int codes: 0 for a usable box, otherwise 1 + the position in
        `DROP_REASONS`; (T,) bool, True where clipping moved an edge by more than `EDGE_TOLERANCE`.
    """
    limits = np.stack([widths, heights, widths, heights], axis=-1).astype(np.float64)
    clipped = np.clip(boxes, 0, limits)
    single = clipped.astype(np.float32)  # two edges may meet here that differed in float64
    finite = np.isfinite(boxes).all(axis=-1)
    had_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=-1)
    has_area = (single[:, 2:] > single[:, :2]).all(axis=-1)
    codes = np.select([~finite, ~had_area, ~has_area], [1, 2, 3], default=0)
    moved = (np.abs(clipped - boxes) > EDGE_TOLERANCE).any(axis=-1) & (codes == 0)
    return single, codes, moved


def size_fault(found: tuple[int, int], annotated: tuple[int, int]) -> str | None:
    """What is wrong when an image is of another size than annotated; None when the sizes agree.

    Args:
        found: (height, width) of the image in pixels, EXIF orientation applied.
        annotated: (height, width) in the annotations.
    """
    if found == annotated:
        return None
    message = (
        f"the image is {found[0]} high and {found[1]} wide, but its annotation says {annotated[0]} high and "
        f"{annotated[1]} wide"
    )
    if found == annotated[::-1]:
        message += " (exchanged; images are read as they are shown, with the EXIF orientation applied)"
    return message


def check_class_names(class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """`class_names` as a tuple of strings.

    Raises:
        DatasetError: when it is empty, a single string, or holds a name twice.
    """
    if class_names is None:
        return None
    if isinstance(class_names, str):
        raise DatasetError(f"class_names must be a list of names, got the string {class_names!r}")
    names = tuple(str(name) for name in class_names)
    if not names:
        raise DatasetError("class_names is empty: a detector needs at least one class")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"class_names holds {', '.join(map(repr, twice))} more than once")
    return names
