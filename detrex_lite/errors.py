"""What error messages share: pointing at the name that was probably meant."""

import difflib
import re
from collections.abc import Iterable, Sequence

_LISTED_CHOICES = 20  # a message lists the valid names only when it stays readable
_NEAR = 0.6  # difflib's ratio of two names that are spelt alike


def closest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that was probably meant: spelt alike, or one of the two by initials (`learning_rate`, `lr`).

    Words that both names begin or end with say nothing about what was meant: `loss_vfl` is not `loss_class`.
    """
    choices = sorted({str(choice) for choice in choices})
    by_initials = [choice for choice in choices if choice == _initials(name) or name == _initials(choice)]
    alike = difflib.get_close_matches(str(name), choices, n=len(choices) or 1, cutoff=_NEAR)
    return next(iter(by_initials or [choice for choice in alike if _differ_little(str(name), choice)]), None)


def _differ_little(name: str, choice: str) -> bool:
    """Whether what is left of two names without the words that both begin and end with is spelt alike, or nothing."""
    words, others = (re.split(r"[._\s-]+", text) for text in (name, choice))
    for end in (0, -1):
        while words and others and words[end] == others[end]:
            words, others = (sequence[1:] if end == 0 else sequence[:-1] for sequence in (words, others))
    rest, other = "_".join(words), "_".join(others)
    return not rest or not other or difflib.SequenceMatcher(None, rest, other).ratio() >= _NEAR


def _initials(name: str) -> str | None:
    words = str(name).split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else None


def did_you_mean(name: str, choices: Iterable[str], *, otherwise: str | None = None) -> str:
    """A clause to append to an error about an unknown name.

    Args:
        name: what the user wrote.
        choices: the valid names.
        otherwise: the clause when no choice is close.

    Returns:
        `"; did you mean 'x'?"` when a choice is close, else `otherwise`; without that `"; choices: a, b, c"` (all,
        sorted), or `""` when there are no choices, or more than anybody reads.
    """
    choices = sorted({str(choice) for choice in choices})
    close = closest(name, choices)
    if close is not None:
        return f"; did you mean {close!r}?"
    if otherwise is not None:
        return otherwise
    return f"; choices: {', '.join(choices)}" if 0 < len(choices) <= _LISTED_CHOICES else ""


def few(names: Sequence[object], *, limit: int = 6) -> str:
    """The first names of a list that may be long: `"a, b, c, ... (9 in all)"`."""
    return ", ".join(map(str, names[:limit])) + (f", ... ({len(names)} in all)" if len(names) > limit else "")


class NonFiniteError(ValueError, FloatingPointError):
    """A loss, a cost or a prediction is NaN or infinite: training cannot go on from here."""


def printable(text: str) -> str:
    """The text with control characters and bytes of file names that are not UTF-8 as escapes, for a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
