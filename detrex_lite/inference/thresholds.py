"""Score thresholds of detections: one for all classes, or one for each class. Does not need torch."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import did_you_mean, few

DEFAULT = 0.5

ScoreThreshold = float | Mapping[str, float] | Sequence[float] | np.ndarray
"""One threshold for all classes; class name -> threshold, with the default for others; or K thresholds in order."""


def check_thresholds(value: Any) -> None:
    """Check that a value is valid as the thresholds of some model.

    Raises:
        ValueError: for unsupported types, and numbers outside 0..1.
    """
    if isinstance(value, Mapping):
        for name, threshold in value.items():
            if not _is_threshold(threshold):
                raise ValueError(f"score_threshold of {name!r} must be in 0..1, got {threshold!r}")
    elif isinstance(value, list | tuple | np.ndarray):
        for index, threshold in enumerate(value):
            if not _is_threshold(threshold):
                raise ValueError(f"score_threshold of class {index} must be in 0..1, got {threshold!r}")
    elif not _is_threshold(value):
        raise ValueError(f"score_threshold must be in 0..1, got {value!r}")


def class_thresholds(
    value: ScoreThreshold, class_names: Sequence[str], *, default: float | np.ndarray = DEFAULT
) -> np.ndarray:
    """Return the threshold of each class.

    Args:
        value: the thresholds that the user has set.
        class_names: K names.
        default: threshold of the classes that are missing in a mapping, for all or for each of the K classes.

    Returns:
        (K,) float64.

    Raises:
        ValueError: for a class that the model does not have, a number of thresholds that is not K, numbers outside
            0..1, and unsupported types.
    """
    check_thresholds(value)
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in class_names]
        if unknown:
            hint = did_you_mean(str(unknown[0]), class_names, otherwise=f"; its classes are {few(class_names)}")
            raise ValueError(f"score_threshold is given for {unknown[0]!r}, which is not a class of the model{hint}")
        defaults = np.broadcast_to(np.asarray(default, dtype=np.float64), len(class_names)).tolist()
        return np.array(
            [value.get(name, class_default) for name, class_default in zip(class_names, defaults, strict=True)]
        )
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) != len(class_names):
            raise ValueError(
                f"score_threshold has {len(value)} values, but the model has {len(class_names)} classes: "
                f"{few(class_names)}; give one value for each, or a dict for some of them"
            )
        return np.array(value, dtype=np.float64)
    assert isinstance(value, numbers.Real)
    return np.full(len(class_names), float(value))


def describe_thresholds(thresholds: np.ndarray) -> str:
    """Describe the thresholds of the classes, for messages."""
    if len(set(thresholds.tolist())) == 1:
        return f"score_threshold={thresholds[0]:g}"
    return f"the score_threshold of its class ({thresholds.min():g} to {thresholds.max():g})"


def threshold_below(score: float) -> float:
    """Return a round threshold that a score passes: the score rounded down to one digit, such as 0.2 for 0.23."""
    if not score > 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(score))
    # Rounded, because 0.3 / 0.1 is slightly less than 3.
    return float(f"{math.floor(round(score / unit, 9)) * unit:.0e}")


def _is_threshold(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= float(value) <= 1
