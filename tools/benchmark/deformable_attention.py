"""The speed of the backends of deformable attention, compared with an implementation by grid_sample.

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detrex_lite.ops.deformable_attention import BACKENDS, multi_scale_deformable_attention, select_backend

from .errors import BenchmarkError
from .machine import describe_machine, machine_facts
from .operator_inputs import DTYPES, OperatorInputs, OperatorSettings, make_inputs
from .report import aligned_table, milliseconds
from .timing import Timing, time_in_turns

BASELINE = "grid_sample"
PASSES = ("forward", "forward+backward")
H200_BANDWIDTH = 4.3  # TB/s, as measured through PyTorch
_SHORTEST_RUN = 0.002  # seconds


@dataclass
class OperatorReport:
    """Times by backend and pass, with the machine and the settings.

    Attributes:
        timings: (backend, pass) -> times.
        bounds: pass -> seconds needed to move its bytes; empty without a bandwidth.
        differences: backend -> the largest difference between its result and that of grid_sample.
        skipped: backend -> the reason why it was not measured.
    """

    machine: dict[str, Any]
    settings: OperatorSettings
    timings: dict[tuple[str, str], Timing]
    bounds: dict[str, float]
    differences: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict)

    def ratio(self, backend: str, kind: str) -> float:
        """The median time of a backend divided by that of grid_sample."""
        return self.timings[backend, kind].median / self.timings[BASELINE, kind].median

    def as_json(self) -> dict[str, Any]:
        rows = [
            {
                "backend": backend,
                "pass": kind,
                "median": timing.median,
                "lowest": timing.lowest,
                "highest": timing.highest,
                "seconds": list(timing.seconds),
                "ratio": self.ratio(backend, kind),
                "bound": self.bounds.get(kind),
                "difference": self.differences.get(backend),
            }
            for (backend, kind), timing in self.timings.items()
        ]
        return {"machine": self.machine, "settings": asdict(self.settings), "skipped": self.skipped, "rows": rows}

    def __str__(self) -> str:
        settings = self.settings
        title = (
            f"deformable attention: batch {settings.batch}, {settings.num_queries:,} queries, {settings.heads} heads x "
            f"{settings.channels} channels, {settings.points} points, {settings.dtype}, levels "
            + " ".join(f"{height}x{width}" for height, width in settings.shapes)
        )
        headers = ["backend", "pass", "median ms", "min .. max", "time / grid_sample", "difference"]
        headers += ["bound ms", "median / bound"] if self.bounds else []
        rows = [self._cells(backend, kind, timing) for (backend, kind), timing in self.timings.items()]
        notes = [f"{name} was not measured: {reason}" for name, reason in self.skipped.items()]
        notes.append("Medians over rounds of one run of every side; ratios are of medians, below 1 is faster.")
        if self.bounds:
            notes.append(
                f"bound: moving values, locations, weights and results once at {settings.bandwidth:g} TB/s, and twice "
                "as much backward. It does not account for data that an earlier run left in the cache."
            )
        return "\n\n".join(
            [describe_machine(self.machine), title, aligned_table(headers, rows, left=2), "\n".join(notes)]
        )

    def _cells(self, backend: str, kind: str, timing: Timing) -> list[str]:
        cells = [backend, kind, milliseconds(timing.median)]
        cells += [
            f"{milliseconds(timing.lowest)} .. {milliseconds(timing.highest)}",
            f"{self.ratio(backend, kind):.3f}",
        ]
        cells.append(f"{self.differences[backend]:.1e}" if backend in self.differences else "")
        if self.bounds:
            cells += [milliseconds(self.bounds[kind]), f"{timing.median / self.bounds[kind]:.2f}"]
        return cells


def benchmark_deformable_attention(settings: OperatorSettings, device: torch.device) -> OperatorReport:
    """Time the forward pass, and the forward and backward passes together, of every backend and of grid_sample.

    Raises:
        BenchmarkError: when a backend that the settings name is not available here.
    """
    names, skipped = _available(settings, device)
    inputs = make_inputs(settings, device)
    functions: dict[str, Callable[..., Tensor]] = {BASELINE: grid_sample_attention}
    for name in names:
        functions[name] = _named(name)
    steps: dict[tuple[str, str], Callable[[], object]] = {}
    for kind in PASSES:
        for name, function in functions.items():
            steps[name, kind] = _step(kind, function, inputs, settings.shapes)
    with torch.no_grad():
        expected = grid_sample_attention(inputs.value, settings.shapes, inputs.locations, inputs.weights)
        differences = {
            name: float((functions[name](inputs.value, settings.shapes, *inputs[1:]) - expected).abs().max())
            for name in names
        }
    timings = time_in_turns(steps, device, repeats=settings.repeats, shortest=_SHORTEST_RUN)
    return OperatorReport(machine_facts(device), settings, timings, _bounds(settings, inputs), differences, skipped)


def grid_sample_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The usual implementation without a custom kernel: sample each level with grid_sample, stack, weigh, sum.

    Half precision is sampled in float32, as under autocast.

    Args:
        value, shapes, locations, weights: see `multi_scale_deformable_attention`, which returns the same result.
    """
    dtype = value.dtype
    batch, _, heads, channels = value.shape
    maps = value.float().split([height * width for height, width in shapes], dim=1)
    grids = (2 * locations.float() - 1).transpose(1, 2).flatten(0, 1)  # (B * H, Q, L, P, 2), in -1..1
    sampled = [
        F.grid_sample(
            level.permute(0, 2, 3, 1).reshape(batch * heads, channels, *shape),
            grids[:, :, number],
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )  # (B * H, C, Q, P)
        for number, (level, shape) in enumerate(zip(maps, shapes, strict=True))
    ]
    level_weights = weights.float().transpose(1, 2).flatten(0, 1).flatten(2)[:, None]  # (B * H, 1, Q, L * P)
    out = (torch.stack(sampled, dim=-2).flatten(-2) * level_weights).sum(-1)  # (B * H, C, Q)
    return out.view(batch, heads * channels, -1).transpose(1, 2).to(dtype)


def _named(backend: str) -> Callable[..., Tensor]:
    def function(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        return multi_scale_deformable_attention(value, shapes, locations, weights, backend=backend)

    return function


def _available(settings: OperatorSettings, device: torch.device) -> tuple[list[str], dict[str, str]]:
    """The backends to measure, and why the others are skipped when the settings name "all"."""
    names: list[str] = []
    skipped: dict[str, str] = {}
    for name in BACKENDS if "all" in settings.backends else dict.fromkeys(settings.backends):
        try:
            names.append(select_backend(device, DTYPES[settings.dtype], name))
        except ValueError as error:
            if "all" not in settings.backends:
                raise BenchmarkError(str(error)) from error
            skipped[name] = str(error)
    return names, skipped


def _step(
    kind: str, function: Callable[..., Tensor], inputs: OperatorInputs, shapes: Sequence[tuple[int, int]]
) -> Callable[[], object]:
    if kind == "forward":

        def forward() -> object:
            with torch.no_grad():
                return function(inputs.value, shapes, inputs.locations, inputs.weights)

        return forward
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    value, locations, weights = leaves
    grad_out = torch.randn(
        value.shape[0], locations.shape[1], value.shape[2:].numel(), dtype=value.dtype, device=value.device
    )

    def forward_and_backward() -> object:
        return torch.autograd.grad(function(value, shapes, locations, weights), leaves, grad_out)

    return forward_and_backward


def _bounds(settings: OperatorSettings, inputs: OperatorInputs) -> dict[str, float]:
    """Seconds in which the memory can move the bytes of each pass: every tensor once, and twice as much backward."""
    if settings.bandwidth is None:
        return {}
    out = inputs.value.element_size() * settings.batch * settings.num_queries * settings.heads * settings.channels
    moved = sum(tensor.numel() * tensor.element_size() for tensor in inputs) + out
    return {"forward": moved / settings.bandwidth / 1e12, "forward+backward": 3 * moved / settings.bandwidth / 1e12}
