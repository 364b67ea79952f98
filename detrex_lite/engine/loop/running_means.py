"""Means of losses and other scalars over the steps between two lines of the log."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# Values stay on the device, so that steps need not wait for them, until there are this many records.
MAX_WAITING = 100


Totals = Mapping[str, tuple[float, int]]


def mean_of_totals(totals: Sequence[Totals]) -> dict[str, tuple[float, int]]:
    """name -> (sum, count) with the same mean as those of several processes, and their average count."""
    means: dict[str, tuple[float, int]] = {}
    for name in dict.fromkeys(name for record in totals for name in record):
        total = sum(record[name][0] for record in totals if name in record)
        count = sum(record[name][1] for record in totals if name in record)
        mean_count = max(1, round(count / len(totals)))
        means[name] = total / count * mean_count, mean_count
    return means


class RunningMeans:
    """The mean of each named value over the records that have it.

    The sums are bitwise independent of when they are read, saved or restored.
    """

    def __init__(self) -> None:
        self._waiting: list[Mapping[str, Tensor]] = []
        self._totals: dict[str, tuple[float, int]] = {}

    def add(self, record: Mapping[str, Tensor]) -> None:
        """Add the values of one step: scalar tensors on any device."""
        self._waiting.append(record)
        if len(self._waiting) >= MAX_WAITING:
            self.totals()

    def totals(self) -> dict[str, tuple[float, int]]:
        """name -> (sum, count). All new values come from the device in one transfer."""
        values = [value for record in self._waiting for value in record.values()]
        numbers = iter(torch.stack([value.float() for value in values]).tolist() if values else ())
        for record in self._waiting:
            for name in record:
                total, count = self._totals.get(name, (0.0, 0))
                self._totals[name] = total + next(numbers), count + 1
        self._waiting = []
        return dict(self._totals)

    def means(self) -> dict[str, float]:
        """name -> mean."""
        return {name: total / count for name, (total, count) in self.totals().items()}

    def restart(self, totals: Totals | None = None) -> None:
        """Clear all sums, or continue from earlier `totals`."""
        self._waiting = []
        self._totals = {name: (total, count) for name, (total, count) in (totals or {}).items()}
