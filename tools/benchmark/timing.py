"""Measuring time: all sides run in one process and in turns, so that disturbances of the machine affect all of them."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from detrex_lite.ops.cpu.linear import linear

Key = TypeVar("Key", bound=Hashable)
MATMUL_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_LONGEST_MATMUL = 1.0  # seconds; after a size that takes longer, larger sizes are skipped


@dataclass(frozen=True)
class Timing:
    """The time of each round in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def lowest(self) -> float:
        return min(self.seconds)

    @property
    def highest(self) -> float:
        return max(self.seconds)


def time_in_turns(
    sides: Mapping[Key, Callable[[], object]],
    device: torch.device,
    *,
    repeats: int,
    warmup: int = 2,
    shortest: float = 0.0,
) -> dict[Key, Timing]:
    """Time functions in rounds of one run each.

    Every other round runs in reverse order, so that no side profits from its position.

    Args:
        sides: key -> a function to time.
        device: device of the functions; a GPU is synchronised before and after each run.
        repeats: number of rounds.
        warmup: number of runs of each side before the first round, which are not counted.
        shortest: minimum duration of a run in seconds. A run calls its function as often as that takes, and its time
            is the mean of the calls: for functions that are too short for the resolution of the clock.
    """
    calls = {}
    for key, function in sides.items():
        for _ in range(warmup):
            function()
        single = time_once(function, device) if shortest else shortest
        calls[key] = max(1, math.ceil(shortest / single)) if single else 1
    seconds: dict[Key, list[float]] = {key: [] for key in sides}
    order = list(sides)
    for _ in range(repeats):
        for key in order:
            seconds[key].append(time_once(sides[key], device, calls=calls[key]))
        order.reverse()
    return {key: Timing(tuple(values)) for key, values in seconds.items()}


def time_once(function: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """The time of a call in seconds, as the mean of `calls` consecutive calls; on a GPU measured by CUDA events."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - begin) / calls
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    with torch.cuda.device(device):
        start.record()
        for _ in range(calls):
            function()
        end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1000 / calls


def measure_matmul_rate(device: torch.device, dtype: torch.dtype, *, repeats: int = 3) -> float:
    """The best rate of this machine at products of square matrices, in FLOP/s (2 per multiply-accumulate).

    Uses torch.mm or this project's `linear`, whichever is faster, with torch's current number of threads, and on a GPU
    with its current precision of float32 products (TF32 or not).
    """
    best = 0.0
    for size in MATMUL_SIZES.get(device.type, MATMUL_SIZES["cpu"]):
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = math.inf
        for product in (torch.mm, linear):
            run = functools.partial(product, left, right)
            run()
            seconds = min(seconds, *(time_once(run, device) for _ in range(repeats)))
        best = max(best, 2 * size**3 / seconds)
        if seconds > _LONGEST_MATMUL:
            break
    return best
