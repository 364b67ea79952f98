"""Floating point operations of any code that runs in torch, with 2 per multiply-accumulate."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class FlopCount(NamedTuple):
    """The operations of a run.

    Attributes:
        flops: 2 per multiply-accumulate of products, convolutions, attention and sums of looked-up rows.
        of_modules: dotted name of a module -> the part of `flops` in it and in its submodules.
        uncounted: operator -> number of calls, for operators that compute something but are not counted.
    """

    flops: int
    of_modules: Counter[str]
    uncounted: Counter[str]


def count_flops(run: Callable[[], object], model: nn.Module | None = None) -> FlopCount:
    """Count the operations of torch's operators in a function, backward passes included.

    The function runs twice, because some operators are only registered when they are first used. Kernels that are not
    registered as torch operators are not counted.

    Args:
        run: the function whose operations are counted.
        model: the model for whose modules operations are also counted separately, except those of backward passes.
    """
    run()
    counter = FlopCounterMode(display=False, custom_mapping=_further_formulas())
    # torch 2.15's own tracker hooks into backward passes and fails on views of parameters without gradients.
    counter.mod_tracker = _Owners(model)  # type: ignore[assignment]
    with _SeenOperators() as seen, counter:
        run()
    of_modules = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    total = of_modules.pop("Global", 0)
    names = {packet: str(packet).removeprefix("aten.") for packet in seen.calls if packet not in counter.flop_registry}
    uncounted = {name: seen.calls[packet] for packet, name in names.items() if not name.startswith("profiler.")}
    return FlopCount(total, Counter(of_modules), Counter(uncounted))


class _Owners:
    """Replaces FlopCounterMode's module tracker.

    An operator counts for the innermost module that runs and for the modules that contain it by name, but not for
    modules that merely call it. The counts of disjoint modules therefore add up to the total.

    Attributes:
        parents: the names for which the running operators count; "Global" is the whole run.
    """

    def __init__(self, model: nn.Module | None):
        self._modules = dict(model.named_modules()) if model is not None else {}
        self._running: list[str] = []
        self._hooks: list[Any] = []

    @property
    def parents(self) -> set[str]:
        pieces = self._running[-1].split(".") if self._running else []
        return {"Global", *(".".join(pieces[:length]) for length in range(1, len(pieces) + 1))}

    def __enter__(self) -> "_Owners":
        for name, module in self._modules.items():
            self._hooks += [
                module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name)),
                module.register_forward_hook(self._leave, always_call=True),
            ]
        return self

    def _leave(self, *_: object) -> None:
        self._running.pop()

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()


class _SeenOperators(TorchDispatchMode):
    """Counts the calls of operators, except those that only return a view."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not getattr(func, "is_view", False):
            self.calls[getattr(func, "overloadpacket", func)] += 1
        return func(*args, **(kwargs or {}))


def _further_formulas() -> dict[Any, Callable[..., int]]:
    """Formulas that torch, or an older version of torch, does not have."""
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
    """weight: (rows, C); indices: one for each row that is looked up. Each row is weighted and added."""
    return 2 * math.prod(indices) * weight[1]


def _grid_sample(image: Any, grid: Any, *args: Any, **kwargs: Any) -> int:
    """image: (B, C, H, W); grid: (B, h, w, 2). Four neighbours of each sample are weighted and added."""
    return 2 * 4 * math.prod(grid[:-1]) * image[1]


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """query: (B, H, Q, C); key: (B, H, N, C); value: (B, H, N, V): the logits and the weighted sums."""
    *rows, channels = query
    return 2 * math.prod(rows) * key[-2] * (channels + value[-1])


def _attention_backward(grad_out: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """The recomputed logits, and the gradients of both factors of each of the two products."""
    *rows, channels = query
    return 2 * math.prod(rows) * key[-2] * (3 * channels + 2 * value[-1])


def _deformable(value: Any, samples: Any) -> int:
    """value: (B, N, H, C); samples: (B, Q, H, L, P, 2). Four neighbours of each sample are weighted and added."""
    return 2 * 4 * math.prod(samples[:-1]) * value[-1]


# This project's operators. Backward, each neighbour contributes to the gradients of the value and of the weight.
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
