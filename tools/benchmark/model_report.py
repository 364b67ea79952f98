"""The report of measured models, as a table and as JSON."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from .machine import describe_machine
from .report import aligned_table, gibibytes, milliseconds


@dataclass(kw_only=True)
class Measurement:
    """One row: one side in one mode, precision and variant ("eager" or "compiled").

    Attributes:
        seconds: the time of one pass or step in each round.
        flops: operations of one pass or step, 2 per multiply-accumulate.
        matmul_share: the achieved rate as a fraction of the measured rate of matrix products in this precision.
        peak_memory: bytes on the GPU; None on a CPU.
        ratio: this median divided by the other implementation's; None for the other implementation, or without one.
    """

    config: str
    side: str
    model: str
    parameters: int
    mode: str
    precision: str
    variant: str
    batch: int
    height: int
    width: int
    seconds: list[float]
    median: float
    lowest: float
    highest: float
    images_per_second: float
    flops: int
    matmul_share: float
    peak_memory: int | None
    ratio: float | None = None


@dataclass
class ModelReport:
    """All measurements, with the machine and the settings."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    matmul_rates: dict[str, float]
    rows: list[Measurement] = field(default_factory=list)
    uncounted: set[str] = field(default_factory=set)
    peak_resident: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "uncounted": sorted(self.uncounted)}

    def __str__(self) -> str:
        files = dict.fromkeys(row.config for row in self.rows)
        tables = [self._table(file, [row for row in self.rows if row.config == file]) for file in files]
        notes = "\n".join(textwrap.fill(note, width=120, subsequent_indent="  ") for note in self._notes())
        return "\n\n".join([describe_machine(self.machine), *tables, notes])

    @classmethod
    def _table(cls, file: str, rows: list[Measurement]) -> str:
        compared = any(row.ratio is not None for row in rows)
        headers = ["side", "mode", "precision", "variant", "images", "median ms", "min .. max"]
        headers += ["images/s", "GFLOP", "of matmul", "memory", *(["time / theirs"] if compared else [])]
        models = dict.fromkeys(f"{row.model} of {row.side}: {row.parameters:,} parameters" for row in rows)
        table = aligned_table(headers, [cls._cells(row, compared) for row in rows], left=4)
        return "\n".join([f"{file} ({'; '.join(models)})", table])

    @staticmethod
    def _cells(row: Measurement, compared: bool) -> list[str]:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        return [
            row.side,
            row.mode,
            row.precision,
            row.variant,
            f"{row.batch} x {row.height}x{row.width}",
            milliseconds(row.median),
            f"{milliseconds(row.lowest)} .. {milliseconds(row.highest)}",
            f"{row.images_per_second:.4g}",
            f"{row.flops / 1e9:.4g}",
            f"{row.matmul_share:.0%}",
            gibibytes(row.peak_memory),
            *([ratio] if compared else []),
        ]

    def _notes(self) -> Iterator[str]:
        for precision, rate in self.matmul_rates.items():
            yield f"Matrix products in {precision} reach {rate / 1e9:,.0f} GFLOP/s on this machine."
        yield "Random weights. Medians over rounds of one run of every side; ratios of medians, below 1 is faster."
        yield "GFLOP: 2 per multiply-accumulate of products, convolutions, attention, look-ups (eager, in float32)."
        if self.uncounted:
            yield f"Not counted: {', '.join(sorted(self.uncounted))}; and kernels that are not torch operators."
        if self.machine["device"].startswith("cuda"):
            yield "Memory: torch.cuda.max_memory_allocated, without the memory of the other sides of the comparison."
        elif self.peak_resident is not None:
            yield f"Peak resident size of the process, all sides together: {gibibytes(self.peak_resident)}."
        if any(row.ratio is not None for row in self.rows):
            yield "Ours runs from bytes to detections, the other side from normalised pixels to logits and boxes."
