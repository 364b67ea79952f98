"""Rules for faults of data sets, used by readers (which stop at the first fault) and by checks (which list all)."""

import contextlib
import numbers
import reprlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import printable_lines

# Rounding of coordinates to one decimal moves an edge by up to this much, which is corrected without a message.
EDGE_TOLERANCE = 0.1

# Reasons for which a box is left out. The codes of `apply_box_rules` are 1 + the position in this list.
DROP_REASONS = ("not finite", "without area", "outside the image")

# The longest side of an image in pixels: float32, the dtype of boxes, cannot represent all larger integers.
MAX_SIDE = 2**24

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


class DatasetError(ValueError):
    """A data set cannot be read; the message names the file and the annotation."""

    def __init__(self, message: str):
        super().__init__(printable_lines(message))


@dataclass(frozen=True)
class Fault:
    """One fault of a data set.

    Attributes:
        kind: a short name by which faults are grouped, e.g. `unknown category`.
        where: the file and the annotation.
        message: description of the fault.
        image: the path of the image of the fault; None if it has none.
        box: xyxy in pixels of that image, as annotated; None for a fault of the whole image.
    """

    kind: str
    where: str
    message: str
    image: str | None = None
    box: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return printable_lines(f"{self.where}: {self.message}")


class FaultLog:
    """Collects the faults that a reader reports.

    Args:
        strict: raise an error at the first fault that cannot be repaired; otherwise collect all faults in `faults`,
            and the reader skips faulty entries.
    """

    def __init__(self, *, strict: bool = True):
        self.strict = strict
        self.faults: list[Fault] = []

    def error(self, kind: str, where: str, message: str, *, image: str | None = None) -> None:
        """Report a fault that only the user can repair; the arguments are those of `Fault`.

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
        """Report a fault that the reader repairs, such as a box that is clipped or left out."""
        self.faults.append(Fault(kind, where, message, image, None if box is None else tuple(box)))


def shown(value: Any) -> str:
    """Return the `repr` of a value from a file, shortened in length and depth."""
    return _REPR.repr(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def integer(value: Any, key: str, *, low: int = _INT64_MIN, high: int = _INT64_MAX) -> int:
    """Convert `value` to an int. Floats without a fraction are accepted; booleans and text are not.

    Raises:
        ValueError: when the value is not an integer from `low` to `high` (by default 64 bits); the message names `key`.
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
    """Convert a boolean of Python or NumPy, or 0 or 1, to a bool.

    Raises:
        ValueError: for other values; the message names `key`.
    """
    return bool(value) if isinstance(value, bool | np.bool_) else integer(value, key, low=0, high=1) == 1


def real(value: Any, key: str) -> float:
    """Convert `value` to a float, which may be infinite or nan. Booleans and text are not accepted.

    Raises:
        ValueError: when the value is not a number or exceeds the range of float64; the message names `key`.
    """
    if _is_number(value):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{key!r} is beyond the range of floating-point numbers: {shown(value)}") from None
    raise ValueError(f"{key!r} must be a number, got {shown(value)}")


def name_of(value: Any, key: str) -> str:
    """Check that `value` is a name that can be printed, drawn and written to a file, and return it.

    Raises:
        ValueError: when the value is not text, is blank, or has a control character or half of a surrogate pair; the
            message names `key`.
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
    """Clip boxes to their images and find boxes that cannot be used.

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
    single = clipped.astype(np.float32)  # edges that differ in float64 may be equal in float32
    finite = np.isfinite(boxes).all(axis=-1)
    had_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=-1)
    has_area = (single[:, 2:] > single[:, :2]).all(axis=-1)
    codes = np.select([~finite, ~had_area, ~has_area], [1, 2, 3], default=0)
    moved = (np.abs(clipped - boxes) > EDGE_TOLERANCE).any(axis=-1) & (codes == 0)
    return single, codes, moved


def size_fault(found: tuple[int, int], annotated: tuple[int, int]) -> str | None:
    """Return the message for an image whose size differs from its annotation; None when the sizes are equal.

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
    """Return `class_names` as a tuple of strings; None for None.

    Raises:
        DatasetError: when it is empty, a single string, or has a repeated or invalid name.
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
    repeated_names = sorted({name for name in names if names.count(name) > 1})
    if repeated_names:
        raise DatasetError(f"class_names holds {', '.join(map(repr, repeated_names))} more than once")
    return names
