"""Floating point operations of whatever torch executes, at 2 per multiply-accumulate."""

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
        of_modules: dotted name of a module -> the part of `flops` in it and in the modules that it owns.
        uncounted: operator -> how often it ran, of those that compute something, but count nothing.
    """

    flops: int
    of_modules: Counter[str]
    uncounted: Counter[str]


def count_flops(run: Callable[[], object], model: nn.Module | None = None) -> FlopCount:
    """Run once and count what torch's operators do, backward passes included.

    It runs twice: only after the first time are all operators known that are imported when they are first used.
    Kernels that are no operators of torch are not seen.

    Args:
        run: what is counted.
        model: whose modules are told apart; those of backward passes are not.
    """
    run()
    counter = FlopCounterMode(display=False, custom_mapping=_further_formulas())
    # Its own tracker hooks into backward passes, and fails on views of parameters without gradients (torch 2.15).
    counter.mod_tracker = _Owners(model)  # type: ignore[assignment]
    with _SeenOperators() as seen, counter:
        run()
    of_modules = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    total = of_modules.pop("Global", 0)
    names = {packet: str(packet).removeprefix("aten.") for packet in seen.calls if packet not in counter.flop_registry}
    uncounted = {name: seen.calls[packet] for packet, name in names.items() if not name.startswith("profiler.")}
    return FlopCount(total, Counter(of_modules), Counter(uncounted))


class _Owners:
    """In place of FlopCounterMode's tracker of modules.

    An operator counts for the innermost module that runs and for those that own it by their names, not for modules that
    merely call it: so parts that share nothing add up to the whole.

    Attributes:
        parents: what the operators that run now count for; "Global" is the whole run.
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
    """Counts the operators that run, but for those that only look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not getattr(func, "is_view", False):
            self.calls[getattr(func, "overloadpacket", func)] += 1
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
