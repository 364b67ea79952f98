"""Selection of the cases of a test that always run, and of those in the slow suite."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import pytest


def first_always(cases: Iterable[Any], number: int = 1) -> list[Any]:
    """Mark cases of `pytest.mark.parametrize` after the first `number` as slow."""
    chosen = list(cases)
    slow_cases = [case if isinstance(case, tuple) else (case,) for case in chosen[number:]]
    return [*chosen[:number], *(pytest.param(*case, marks=pytest.mark.slow) for case in slow_cases)]


def first_of_each(cases: Iterable[Any], key: Callable[[Any], Hashable]) -> list[Any]:
    """Mark cases of `pytest.mark.parametrize` as slow if an earlier case has the same key."""
    result, seen_keys = [], set()
    for case in cases:
        is_repeated = key(case) in seen_keys
        seen_keys.add(key(case))
        values = case if isinstance(case, tuple) else (case,)
        result.append(pytest.param(*values, marks=pytest.mark.slow) if is_repeated else case)
    return result
