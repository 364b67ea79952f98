"""Validation of ranges of epochs and of probabilities."""

from collections.abc import Sequence

Epochs = tuple[int, int | None]


def checked_epochs(epochs: Sequence[int | None] | None, what: str) -> Epochs | None:
    """Return `epochs` as a pair: the first epoch, and the one before which it ends, or None for no end.

    Args:
        epochs: the pair; None for all epochs.
        what: description of the operation, for messages.

    Raises:
        ValueError: unless it is a pair of integers with 0 <= first < end.
    """
    if epochs is None:
        return None
    rule = "must be [first, end] with 0 <= first < end, end null for none; it applies in first, .., end - 1"
    if isinstance(epochs, str) or not isinstance(epochs, Sequence) or len(epochs) != 2:
        raise ValueError(f"epochs={epochs} of {what} {rule}")
    first, end = epochs
    if not _is_whole(first) or not (end is None or _is_whole(end)):
        raise ValueError(f"epochs={list(epochs)} of {what} {rule}")
    assert first is not None
    if first < 0 or (end is not None and end <= first):
        raise ValueError(f"epochs={list(epochs)} of {what} {rule}")
    return first, end


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_in(epochs: Epochs | None, epoch: int) -> bool:
    """Whether `epoch` is one of `epochs`."""
    if epochs is None:
        return True
    first, end = epochs
    return first <= epoch and (end is None or epoch < end)


def checked_probability(probability: float, what: str) -> float:
    """Return `probability` after validation.

    Raises:
        ValueError: when it is not in 0..1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability} of {what} must be between 0 and 1")
    return probability
