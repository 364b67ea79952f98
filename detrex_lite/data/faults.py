"""Faults of data sets: one rule each, used by the readers (stop at the first) and by the check (list all)."""

import contextlib
import numbers
import reprlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Rounding of coordinates to one decimal moves an edge by up to this much; it is mended without a word.
EDGE_TOLERANCE = 0.1

# Reasons for which a box is left out, by the codes of `apply_box_rules` less one.
DROP_REASONS = ("not finite", "without area", "outside the image")

# The longest side of an image in pixels: beyond it float32, in which boxes are kept, skips whole numbers.
MAX_SIDE = 2**24

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def printable(text: str) -> str:
    """`text` with escapes in place of what a terminal would obey or an encoder refuse; lines stay lines."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )


class DatasetError(ValueError):
    """A data set that cannot be read as it is; the message names the file and the annotation."""

    def __init__(self, message: str):
        super().__init__(printable(message))


@dataclass(frozen=True)
class Fault:
    """One fault of a data set.

    Attributes:
        kind: a short name to count by, e.g. `unknown category`.
        where: the file and the annotation.
        message: what is wrong there.
        image: the path of the image that shows it; None where there is none.
        box: xyxy in pixels of that image, as annotated; None for a fault of the whole image.
    """

    kind: str
    where: str
    message: str
    image: str | None = None
    box: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.message}")


class FaultLog:
    """What a reader reports faults to.

    Args:
        strict: raise at the first fault that cannot be repaired; otherwise collect them all in `faults`, and
            the reader goes on without the faulty entry.
    """

    def __init__(self, *, strict: bool = True):
        self.strict = strict
        self.faults: list[Fault] = []

    def error(self, kind: str, where: str, message: str, *, image: str | None = None) -> None:
        """A fault that only the user can repair; the arguments are those of `Fault`.

        Raises:
            DatasetError: when strict.
        """
        fault = Fault(kind, where, message, image)
        if self.strict:
            raise DatasetError(str(fault))
        self.faults.append(fault)

    def repaired(
        self, kind: str, where: str, message: str, *, image: str | None = None, box: Sequence[float] | None = None
    ) -> None:
        """A fault that the reader deals with: a box that is clipped or left out."""
        self.faults.append(Fault(kind, where, message, image, None if box is None else tuple(box)))


def shown(value: Any) -> str:
    """`repr` of what a file holds, cut short at any length and depth."""
    return _REPR.repr(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def integer(value: Any, key: str, *, low: int = _INT64_MIN, high: int = _INT64_MAX) -> int:
    """`value` as an int. Whole floats count as integers; truth values and text do not.

    Raises:
        ValueError: when it is none or not in `low` to `high` (by default what 64 bits hold); it names `key`.
    """
    whole = None
    if type(value) is int:  # the common case first: data sets have millions
        whole = value
    elif _is_number(value):
        with contextlib.suppress(OverflowError, ValueError):  # infinite, or not a number
            whole = int(value) if int(value) == value else None
    if whole is None:
        raise ValueError(f"{key!r} must be an integer, got {shown(value)}")
    if not low <= whole <= high:
        raise ValueError(f"{key!r} must be from {low} to {high}, got {shown(value)}")
    return whole


def flag(value: Any, key: str) -> bool:
    """A truth value of Python or NumPy, or 0 or 1.

    Raises:
        ValueError: for anything else; it names `key`.
    """
    return bool(value) if isinstance(value, bool | np.bool_) else integer(value, key, low=0, high=1) == 1


def real(value: Any, key: str) -> float:
    """`value` as a float, which may be infinite or not a number. Truth values and text do not count.

    Raises:
        ValueError: when it is no number or beyond the range of float64; it names `key`.
    """
    if _is_number(value):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{key!r} is beyond the range of floating-point numbers: {shown(value)}") from None
    raise ValueError(f"{key!r} must be a number, got {shown(value)}")


def name_of(value: Any, key: str) -> str:
    """`value` as a name that can be printed, drawn and written to a file.

    Raises:
        ValueError: when it is no text, blank, or holds a control character or half of a surrogate pair; it names
            `key`.
    """
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be text, got {shown(value)}")
    if not value.strip():
        raise ValueError(f"{key!r} must not be blank, got {value!r}")
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):  # control, surrogate, line, paragraph
            raise ValueError(f"{key!r} holds {character!r}, which is no character to write or show: {shown(value)}")
    return value


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
        DatasetError: when it is empty, a single string, or holds a name twice or something that is no name.
    """
    if class_names is None:
        return None
    if isinstance(class_names, str):
        raise DatasetError(f"class_names must be a list of names, got the string {class_names!r}")
    try:
        names = tuple(name_of(name, f"class_names[{k}]") for k, name in enumerate(class_names))
    except ValueError as error:
        raise DatasetError(str(error)) from None
    if not names:
        raise DatasetError("class_names is empty: a detector needs at least one class")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"class_names holds {', '.join(map(repr, twice))} more than once")
    return names
