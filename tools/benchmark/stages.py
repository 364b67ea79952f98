"""The report of a measurement by parts, as a table and as JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .machine import describe_machine
from .report import aligned_table, milliseconds
from .timing import Timing


@dataclass(kw_only=True)
class StagesReport:
    """Times of parts, with the machine and the settings.

    Attributes:
        title: the heading, which says what was measured.
        machine: result of `machine_facts`.
        settings: other settings that affect the figures, as plain values.
        timings: part -> times.
        whole: the part that is the sum of the others, to which `share` refers; None when the parts have no sum.
        rates: name -> value; the name contains the unit.
        notes: sentences below the table.
    """

    title: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    timings: dict[str, Timing]
    whole: str | None = None
    rates: dict[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def share(self, part: str) -> float | None:
        """The fraction of the total time that a part takes; of sums, because medians do not add up."""
        if self.whole is None or part == self.whole:
            return None
        return sum(self.timings[part].seconds) / sum(self.timings[self.whole].seconds)

    def as_json(self) -> dict[str, Any]:
        rows = [
            {
                "part": part,
                "median": timing.median,
                "lowest": timing.lowest,
                "highest": timing.highest,
                "share": self.share(part),
                "seconds": list(timing.seconds),
            }
            for part, timing in self.timings.items()
        ]
        return {
            "title": self.title,
            "machine": self.machine,
            "settings": self.settings,
            "rates": self.rates,
            "rows": rows,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        rows = []
        for part, timing in self.timings.items():
            quarters = statistics.quantiles(timing.seconds, n=4) if len(timing.seconds) > 1 else [timing.median] * 3
            share = self.share(part)
            rows.append(
                [
                    part,
                    *map(milliseconds, (timing.median, quarters[0], quarters[2], timing.lowest, timing.highest)),
                    "" if share is None else f"{share:.0%}",
                ]
            )
        headers = ["part", "median ms", "25%", "75%", "lowest", "highest", "share"]
        rates = [f"{name}: {value:.4g}" for name, value in self.rates.items()]
        parts = [self.title, describe_machine(self.machine), aligned_table(headers, rows), *rates, *self.notes]
        return "\n\n".join(parts)
