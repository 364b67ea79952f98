"""The collective operations that models, evaluation and the engine need.

Every function works without a process group; there is then one process, which is the main process.
"""

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# How long processes wait for each other, for example while the main process computes metrics or writes a checkpoint.
WAIT_AT_MOST = timedelta(minutes=30)


def is_distributed() -> bool:
    """Whether a process group with more than one process is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Return the number of this process, 0 for the main process."""
    return dist.get_rank() if is_distributed() else 0


def is_main_process() -> bool:
    """Whether this is the process that writes files and logs."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process reaches this call."""
    if is_distributed():
        dist.barrier()


def all_gather_objects(value: T) -> list[T]:
    """Return the `value` of every process, by rank, on every process."""
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_objects(value: T) -> list[T]:
    """Return the `value` of every process, by rank, on the main process, and an empty list on the others.

    It suits large objects: they are transferred through CPU memory, and to one process only.
    """
    if not is_distributed():
        return [value]
    gathered: list[Any] | None = [None] * world_size() if is_main_process() else None
    dist.gather_object(value, gathered, dst=0, group=cpu_group())
    return gathered or []


def cpu_group() -> "dist.ProcessGroup | None":
    """Return a group of all processes with the gloo backend: the default one (None), or a second one on GPUs.

    Every process must make the first call, which connects them.
    """
    if dist.get_backend() == "gloo":
        return None
    return _gloo_group(dist.group.WORLD)


@functools.lru_cache(maxsize=1)
def _gloo_group(default_group: Any) -> Any:
    """default_group: the default group; it is an argument so that each default group gets a separate gloo group."""
    return dist.new_group(backend="gloo", timeout=WAIT_AT_MOST)


def broadcast_object(value: T) -> T:
    """Return the main process's `value` on every process."""
    if not is_distributed():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def from_main_process(compute: Callable[[], T]) -> T:
    """Return the result of `compute` on every process; only the main process calls it.

    Raises:
        Exception: on every process, the exception of `compute` on the main process, so that no process waits for it.
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
    """Return the mean of `value` over all processes (a new tensor without gradient); `value` itself without a group."""
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
