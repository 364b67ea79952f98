"""Selection of the device by name, and detection of out-of-memory errors."""

import os

import torch


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device with that name; "auto" is a GPU if there is one.

    Raises:
        ValueError: when there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:1' or the like, got {device!r}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but there is no CUDA device; use 'cpu' or 'auto'")
    return chosen


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there is not enough memory, on a CPU or a GPU."""
    is_gpu = isinstance(error, torch.cuda.OutOfMemoryError)
    return is_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
