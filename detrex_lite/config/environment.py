"""Tracking of the values of a config that come from environment variables."""

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from omegaconf.resolvers import oc

_names: ContextVar[list[str] | None] = ContextVar("names of environment variables", default=None)


@contextlib.contextmanager
def environment_reads() -> Iterator[list[str]]:
    """Collect the names of the variables that `${oc.env:NAME}` reads within this context."""
    names: list[str] = []
    token = _names.set(names)
    try:
        yield names
    finally:
        _names.reset(token)


@functools.wraps(oc.env)
def read_environment(key: str, *default: Any) -> Any:
    """omegaconf's `oc.env`, which also records the variables that it reads."""
    names = _names.get()
    if names is not None:
        names.append(key)
    return oc.env(key, *default)
