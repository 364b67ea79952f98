"""The few collective operations that models, evaluation and the engine need.

Every function works without a process group: there is one process then, and it is the main one.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


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
