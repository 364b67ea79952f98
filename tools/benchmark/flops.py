"""Floating point operations of whatever torch executes, at 2 per multiply-accumulate."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class FlopCount(NamedTuple):
    """The operations of a run.

    Attributes:
        flops: 2 per multiply-accumulate of products, convolutions, attention and sums of looked-up rows.
        uncounted: names of the operators that ran and compute something, but count nothing.
    """

    flops: int
    uncounted: tuple[str, ...]


def count_flops(run: Callable[[], object]) -> FlopCount:
    """Run once and count what torch's operators do, backward passes included.

    It runs twice: only after the first time are all operators known that are imported when they are first used.
    Kernels that are no operators of torch are not seen.
    """
    run()
    counter = FlopCounterMode(display=False, custom_mapping=_further_formulas())
    # Its own tracker hooks into modules, and fails on views of parameters without gradients (torch 2.15).
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with _SeenOperators() as seen, counter:
        run()
    names = (str(packet) for packet in seen.packets if packet not in counter.flop_registry)
    return FlopCount(
        counter.get_total_flops(),
        tuple(sorted(name.removeprefix("aten.") for name in names if not name.startswith("profiler."))),
    )


class _NoModules:
    """In place of FlopCounterMode's tracker of modules: all is counted for the whole run."""

    parents = frozenset(["Global"])

    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *error: object) -> None:
        pass


class _SeenOperators(TorchDispatchMode):
    """Collects the operators that run, but for those that only look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.packets: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not getattr(func, "is_view", False):
            self.packets.add(getattr(func, "overloadpacket", func))
        return func(*args, **(kwargs or {}))


def _further_formulas() -> dict[Any, Callable[..., int]]:
    """Formulas that torch does not have, or that only its newer versions have."""
    formulas: dict[str, Callable[..., int]] = {
        "_embedding_bag": _embedding_bag,
        "_embedding_bag_forward_only": _embedding_bag,
        "grid_sampler_2d": _grid_sample,
        "grid_sampler_2d_backward": lambda gradient, *args, **kwargs: 2 * _grid_sample(*args),
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    }
    return {
        getattr(namespace, name): formula
        for namespace, names in ((torch.ops.aten, formulas), (torch.ops.detrex_lite, _OWN))
        for name, formula in names.items()
        if hasattr(namespace, name)
    }


def _embedding_bag(weight: Any, indices: Any, *args: Any, **kwargs: Any) -> int:
    """weight: (rows, C); indices: as many as rows are looked up. Each is weighed and added."""
    return 2 * math.prod(indices) * weight[1]


def _grid_sample(image: Any, grid: Any, *args: Any, **kwargs: Any) -> int:
    """image: (B, C, H, W); grid: (B, h, w, 2). Four neighbours of each sample are weighed and added."""
    return 2 * 4 * math.prod(grid[:-1]) * image[1]


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """query: (B, H, Q, C); key: (B, H, N, C); value: (B, H, N, V): the logits and the weighted sums."""
    *rows, channels = query
    return 2 * math.prod(rows) * key[-2] * (channels + value[-1])


def _attention_backward(grad_out: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """The logits once more, and of each of the two products the gradients of both factors."""
    *rows, channels = query
    return 2 * math.prod(rows) * key[-2] * (3 * channels + 2 * value[-1])


def _deformable(value: Any, samples: Any) -> int:
    """value: (B, N, H, C); samples: (B, Q, H, L, P, 2). Four neighbours of each sample are weighed and added."""
    return 2 * 4 * math.prod(samples[:-1]) * value[-1]


# This project's operators. Backward, a neighbour is a term of the value's gradient and of the weight's.
_OWN: dict[str, Callable[..., int]] = {
    "deformable_attention_cpu": lambda value, samples, *args, **kwargs: _deformable(value, samples),
    "deformable_attention_cpu_backward": lambda gradient, value, samples, *args, **kwargs: (
        2 * _deformable(value, samples)
    ),
    "deformable_attention": lambda value, points, samples, *args, **kwargs: _deformable(value, samples),
    "deformable_attention_backward": lambda gradient, out, log_sums, value, points, samples, *args, **kwargs: (
        2 * _deformable(value, samples)
    ),
}
