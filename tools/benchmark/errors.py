"""The error that wrong arguments of a measurement raise."""

from collections.abc import Iterable

from detrex_lite.errors import did_you_mean


class BenchmarkError(ValueError):
    """A measurement cannot be made; the message says why, and lists the valid choices."""


def require_known(kind: str, names: Iterable[str], choices: Iterable[str]) -> None:
    """Raise BenchmarkError when a name is not among the choices, or when there are no names.

    Args:
        kind: the kind of thing that is named, such as "precision".
    """
    choices, names = list(choices), list(names)
    if not names:
        raise BenchmarkError(f"no {kind} is given; choices: {', '.join(choices)}")
    for name in names:
        if name not in choices:
            raise BenchmarkError(f"there is no {kind} {name!r}{did_you_mean(name, choices)}")


def require_positive(**numbers: int) -> None:
    """Raise BenchmarkError when one of the numbers is below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise BenchmarkError(f"{name.replace('_', '-')} must be 1 or more, got {number}")
