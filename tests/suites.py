"""Which cases of a test run always, and which in the slow suite."""

from collections.abc import Iterable
from typing import Any

import pytest


def first_always(cases: Iterable[Any], number: int = 1) -> list[Any]:
    """Cases of `pytest.mark.parametrize`, of which those after the first `number` are marked as slow."""
    chosen = list(cases)
    rest = [case if isinstance(case, tuple) else (case,) for case in chosen[number:]]
    return [*chosen[:number], *(pytest.param(*case, marks=pytest.mark.slow) for case in rest)]
