"""The error for all faults of a config."""

import traceback
from collections.abc import Sequence
from pathlib import Path

import detrex_lite

_OUR_CODE = (Path(detrex_lite.__file__).parent, detrex_lite.SHIPPED_IN / "projects")


class ConfigError(ValueError):
    """A config that cannot be loaded, overridden, validated or built.

    Attributes:
        faults: one sentence per fault; all faults are found in one pass.
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


class ConstructionError(ConfigError):
    """A constructor failed; `__cause__` is the exception that it raised."""


def explain(error: Exception, *, with_traceback: bool = False) -> str:
    """Format the error that ends a program.

    For faults of a config, which `validate` finds, the result is the message. An exception of a constructor may be a
    mistake in its code. For a `ValueError` or `OSError`, which constructors raise on purpose, the location is added,
    unless it is in detrex_lite; for other exceptions the traceback inside the constructor is added.

    Args:
        error: any error; one that is not a `ConstructionError` gives its message.
        with_traceback: whether to put the whole traceback first, for any error.
    """
    text = f"error: {error}"
    if with_traceback:
        return "".join(traceback.format_exception(error)) + text
    cause = error.__cause__
    if not isinstance(error, ConstructionError) or cause is None:
        return text
    inside = cause.__traceback__ and cause.__traceback__.tb_next  # the first frame is the call by `instantiate`
    if inside is None:
        return text
    if not isinstance(cause, (ValueError, OSError)):
        return "".join(traceback.format_exception(type(cause), cause, inside)) + text
    last = traceback.extract_tb(inside)[-1]
    if any(Path(last.filename).is_relative_to(folder) for folder in _OUR_CODE):
        return text
    return f"{text}\n  raised in {last.filename}, line {last.lineno} ({last.name}); --traceback shows all of it"
