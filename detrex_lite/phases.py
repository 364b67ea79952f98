"""Time measurement of the parts of a training step.

The trainer measures. Code with a part worth measuring marks it by `phase("matching")`, which costs nothing when nothing
is measured.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch

_current: ContextVar["PhaseTimes | None"] = ContextVar("phase_times", default=None)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time within this context to phase `name`, if time is measured. Nested phases both count."""
    times = None if torch.compiler.is_compiling() else _current.get()
    if times is None:
        yield
        return
    start = times.now()
    try:
        yield
    finally:
        times.add(name, start, times.now())


class PhaseTimes:
    """Sums the time of each phase, on a GPU by its own clock, without synchronising until the sums are read.

    Memory does not grow with the number of steps, even if the sums are never read.

    Args:
        device: the device of the phases.
    """

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._pending: deque[tuple[str, Any, Any]] = deque()  # spans that a GPU may not have finished yet
        self._totals: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Count phases within this context here."""
        while self._pending and self._is_over(self._pending[0][2]):
            self._count_first()
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def now(self) -> Any:
        """Return a time stamp; on a GPU an event in its queue."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, name: str, start: Any, end: Any) -> None:
        """Count the time between two time stamps."""
        self._pending.append((name, start, end))

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, in the order in which phases first ended."""
        if self._on_gpu and self._pending:
            self._pending[-1][2].synchronize()
        while self._pending:
            self._count_first()
        totals, self._totals = self._totals, {}
        return totals

    def _is_over(self, moment: Any) -> bool:
        return not self._on_gpu or moment.query()

    def _count_first(self) -> None:
        """Move the span that ended first into the totals."""
        name, start, end = self._pending.popleft()
        seconds = start.elapsed_time(end) / 1000 if self._on_gpu else end - start
        self._totals[name] = self._totals.get(name, 0.0) + seconds
