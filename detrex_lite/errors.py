"""Helpers for error messages, such as suggestions for misspelt names."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LISTED_CHOICES = 20  # valid names are only listed up to this number
_NEAR = 0.6  # lower bound of difflib's ratio for names with a similar spelling


def closest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice that was probably meant: one with a similar spelling, or initials (`learning_rate`, `lr`).

    Words that both names begin or end with are not compared, so that `loss_vfl` is not similar to `loss_class`.
    """
    choices = sorted({str(choice) for choice in choices})
    by_initials = [choice for choice in choices if choice == _initials(name) or name == _initials(choice)]
    alike = difflib.get_close_matches(str(name), choices, n=len(choices) or 1, cutoff=_NEAR)
    return next(iter(by_initials or [choice for choice in alike if _differ_little(str(name), choice)]), None)


def _differ_little(name: str, choice: str) -> bool:
    """Whether two names without their common first and last words are similar, or one of them is empty."""
    words, choice_words = (re.split(r"[._\s-]+", text) for text in (name, choice))
    for end in (0, -1):
        while words and choice_words and words[end] == choice_words[end]:
            words, choice_words = (sequence[1:] if end == 0 else sequence[:-1] for sequence in (words, choice_words))
    remaining, remaining_choice = "_".join(words), "_".join(choice_words)
    return (
        not remaining
        or not remaining_choice
        or difflib.SequenceMatcher(None, remaining, remaining_choice).ratio() >= _NEAR
    )


def _initials(name: str) -> str | None:
    words = str(name).split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else None


def did_you_mean(name: str, choices: Iterable[str], *, otherwise: str | None = None) -> str:
    """Return a clause to append to an error about an unknown name.

    Args:
        name: what the user wrote.
        choices: the valid names.
        otherwise: the clause if no choice is similar.

    Returns:
        `"; did you mean 'x'?"` if a choice is similar, else `otherwise`; without it `"; choices: a, b, c"` (all,
        sorted), or `""` when there are no choices, or too many to list.
    """
    choices = sorted({str(choice) for choice in choices})
    close = closest(name, choices)
    if close is not None:
        return f"; did you mean {close!r}?"
    if otherwise is not None:
        return otherwise
    return f"; choices: {', '.join(choices)}" if 0 < len(choices) <= _LISTED_CHOICES else ""


def few(names: Sequence[object], *, limit: int = 6) -> str:
    """Format the first names of a list that may be long: `"a, b, c, ... (9 in all)"`."""
    return ", ".join(map(str, names[:limit])) + (f", ... ({len(names)} in all)" if len(names) > limit else "")


class NonFiniteError(ValueError, FloatingPointError):
    """A loss, a cost or a prediction is NaN or infinite, so that training cannot continue."""


def printable(text: str, *, kept: str = "") -> str:
    """Escape control characters, except those in `kept`, and bytes of file names that are not UTF-8, for a terminal."""
    return "".join(
        char if char.isprintable() or char in kept else char.encode("unicode_escape").decode() for char in text
    )


def printable_lines(text: str) -> str:
    """`printable` for messages of several lines."""
    return printable(text, kept="\n")


def require_callables(kind: str, table: Mapping[str, Any]) -> None:
    """Raise an error when a value of a table is not callable, such as a node of a config without a class.

    Args:
        kind: what the values are, such as "cost".
        table: the values by name.

    Raises:
        ValueError: for the first value that is not callable.
    """
    for name, value in table.items():
        if not callable(value):
            raise ValueError(
                f"{kind} {name!r} is {value!r}, which is not callable: a config needs L(Class)(...) here, or a node "
                "with _target_"
            )
