"""Which detections are kept: one threshold for all classes, or one for each. It needs no torch."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import did_you_mean, few

DEFAULT = 0.5

ScoreThreshold = float | Mapping[str, float] | Sequence[float] | np.ndarray
"""One for all classes; class name -> threshold, where the others keep their default; or K of them, in order."""


def check_thresholds(value: Any) -> None:
    """Refuse what can be no threshold of any model.

    Raises:
        ValueError: for other types, and numbers outside 0..1.
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
    """The threshold of each class.

    Args:
        value: what the user asked for.
        class_names: K names.
        default: what classes get that a mapping does not name, for all or for each of the K.

    Returns:
        (K,) float64.

    Raises:
        ValueError: for a class that the model does not have, another number of thresholds than K, numbers outside 0..1,
            and other types.
    """
    check_thresholds(value)
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in class_names]
        if unknown:
            hint = did_you_mean(str(unknown[0]), class_names, otherwise=f"; its classes are {few(class_names)}")
            raise ValueError(f"score_threshold is given for {unknown[0]!r}, which is no class of the model{hint}")
        defaults = np.broadcast_to(np.asarray(default, dtype=np.float64), len(class_names)).tolist()
        return np.array([value.get(name, other) for name, other in zip(class_names, defaults, strict=True)])
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) != len(class_names):
            raise ValueError(
                f"score_threshold has {len(value)} values, and the model {len(class_names)} classes: "
                f"{few(class_names)}; give one for each, or a dict of those that differ"
            )
        return np.array(value, dtype=np.float64)
    assert isinstance(value, numbers.Real)
    return np.full(len(class_names), float(value))


def describe_thresholds(thresholds: np.ndarray) -> str:
    """The thresholds of the classes, for messages."""
    if len(set(thresholds.tolist())) == 1:
        return f"score_threshold={thresholds[0]:g}"
    return f"the score_threshold of its class ({thresholds.min():g} to {thresholds.max():g})"


def threshold_below(score: float) -> float:
    """A round threshold that a score passes: the score cut to its first digit, so 0.2 for 0.23."""
    if not score > 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(score))
    # Rounded, since 0.3 / 0.1 is a little less than 3.
    return float(f"{math.floor(round(score / unit, 9)) * unit:.0e}")


def _is_threshold(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= float(value) <= 1
