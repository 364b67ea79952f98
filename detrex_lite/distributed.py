"""The few collective operations that models, evaluation and the engine need.

Every function works without a process group: there is one process then, and it is the main one.
"""

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# How long processes wait for each other: while the main one computes metrics or writes a checkpoint, the others do.
WAIT_AT_MOST = timedelta(minutes=30)


def is_distributed() -> bool:
    """Whether a process group with more than one process is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """How many processes take part."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """This process's number, 0 for the main process."""
    return dist.get_rank() if is_distributed() else 0


def is_main_process() -> bool:
    """Whether this is the process that writes files and logs."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        dist.barrier()


def all_gather_objects(value: T) -> list[T]:
    """Every process's `value`, by rank, on every process."""
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_objects(value: T) -> list[T]:
    """Every process's `value`, by rank, on the main process; an empty list on the others.

    For much data: it goes through the memory of CPUs, and to one process alone.
    """
    if not is_distributed():
        return [value]
    gathered: list[Any] | None = [None] * world_size() if is_main_process() else None
    dist.gather_object(value, gathered, dst=0, group=cpu_group())
    return gathered or []


def cpu_group() -> "dist.ProcessGroup | None":
    """The group of all processes that talks by gloo: the default one (None), or one beside it on GPUs.

    Every process must make the first call: it connects them.
    """
    if dist.get_backend() == "gloo":
        return None
    return _gloo_group(dist.group.WORLD)


@functools.lru_cache(maxsize=1)
def _gloo_group(beside: Any) -> Any:
    """beside: the default group, so that another one gets another."""
    return dist.new_group(backend="gloo", timeout=WAIT_AT_MOST)


def broadcast_object(value: T) -> T:
    """The main process's `value`, on every process."""
    if not is_distributed():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def from_main_process(compute: Callable[[], T]) -> T:
    """What `compute` returns on the main process, on every process; the others do not call it.

    Raises:
        Exception: on every process, what `compute` raised on the main one: nobody waits for a process that is gone.
    """
    if not is_distributed():
        return compute()
    outcome: tuple[Any, Exception | None] = None, None
    if is_main_process():
        try:
            outcome = compute(), None
        except Exception as error:
            outcome = None, error
    value, failure = broadcast_object(outcome)
    if failure is not None:
        raise failure
    return value


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of `value` over all processes (a new tensor, without gradient); `value` itself when alone."""
    if not is_distributed():
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / world_size()


def any_process(flag: bool, device: torch.device | None = None) -> bool:
    """Whether `flag` is true on at least one process."""
    if not is_distributed():
        return flag
    total = torch.tensor(float(flag), device=device)
    dist.all_reduce(total)
    return bool(total.item())
