"""Which cases of a test run always, and which in the slow suite."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import pytest


def first_always(cases: Iterable[Any], number: int = 1) -> list[Any]:
    """Cases of `pytest.mark.parametrize`, of which those after the first `number` are marked as slow."""
    chosen = list(cases)
    rest = [case if isinstance(case, tuple) else (case,) for case in chosen[number:]]
    return [*chosen[:number], *(pytest.param(*case, marks=pytest.mark.slow) for case in rest)]


def first_of_each(cases: Iterable[Any], key: Callable[[Any], Hashable]) -> list[Any]:
    """Cases of `pytest.mark.parametrize`, of which those are marked as slow whose key an earlier one has."""
    result, seen = [], set()
    for case in cases:
        again = key(case) in seen
        seen.add(key(case))
        values = case if isinstance(case, tuple) else (case,)
        result.append(pytest.param(*values, marks=pytest.mark.slow) if again else case)
    return result
