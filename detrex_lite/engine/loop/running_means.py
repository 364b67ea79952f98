"""Means of losses and other scalars over the steps between two lines of the log."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# Values wait on the device, so that steps need not wait for them, but not for ever.
MAX_WAITING = 100


Totals = Mapping[str, tuple[float, int]]


def mean_of_totals(totals: Sequence[Totals]) -> dict[str, tuple[float, int]]:
    """name -> (sum, count) of one process that stands for the mean of several."""
    means: dict[str, tuple[float, int]] = {}
    for name in dict.fromkeys(name for one in totals for name in one):
        total = sum(one[name][0] for one in totals if name in one)
        count = sum(one[name][1] for one in totals if name in one)
        share = max(1, round(count / len(totals)))
        means[name] = total / count * share, share
    return means


class RunningMeans:
    """The mean of each named value over the records that have it.

    The sums do not depend on when they are read, saved or restored, to the last digit.
    """

    def __init__(self) -> None:
        self._waiting: list[Mapping[str, Tensor]] = []
        self._totals: dict[str, tuple[float, int]] = {}

    def add(self, record: Mapping[str, Tensor]) -> None:
        """Take the values of one step, scalars on any device."""
        self._waiting.append(record)
        if len(self._waiting) >= MAX_WAITING:
            self.totals()

    def totals(self) -> dict[str, tuple[float, int]]:
        """name -> (sum, count). One transfer from the device for all that is new."""
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
        """Forget everything, or go on from earlier `totals`."""
        self._waiting = []
        self._totals = {name: (total, count) for name, (total, count) in (totals or {}).items()}
