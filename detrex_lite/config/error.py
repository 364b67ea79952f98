"""The error of everything that is wrong with a config, and what its messages share."""

import difflib
from collections.abc import Iterable, Sequence

from detrex_lite.errors import did_you_mean

_LISTED_CHOICES = 20  # a message lists the valid names only when it stays readable


class ConfigError(ValueError):
    """A config that cannot be loaded, overridden, validated or built.

    Attributes:
        faults: one sentence for each thing that is wrong, all of them found in one pass.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        if len(self.faults) == 1:
            message = self.faults[0]
        else:
            message = "\n  - ".join([f"{len(self.faults)} faults in the config:", *self.faults])
        super().__init__(message)

    def __reduce__(self) -> tuple:
        return type(self), (self.faults,)


def nearest(name: str, choices: Iterable[str]) -> str:
    """`did_you_mean`, but silent rather than listing more names than anybody reads."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    return did_you_mean(name, close or (choices if len(choices) <= _LISTED_CHOICES else ()))
