"""What a measurement was made on, and how much memory it took."""

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import detrex_lite
from detrex_lite import devices

from .errors import BenchmarkError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU when there is one.

    Raises:
        BenchmarkError: when there is no such device.
    """
    try:
        return devices.choose_device(name)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What figures depend on besides the program, as plain values."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "detrex_lite": detrex_lite.__version__,
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
        facts["float32_matmul_precision"] = torch.get_float32_matmul_precision()
    return facts


def describe_machine(facts: dict[str, Any]) -> str:
    """One line of `machine_facts`."""
    where = f"{facts['gpu']}, CUDA {facts['cuda']}; " if "gpu" in facts else ""
    return f"{where}{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, torch {facts['torch']}"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_resident_bytes() -> int | None:
    """The most memory that this process has had in RAM, all sides of a comparison together; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_bytes(step: Callable[[], object], device: torch.device, own_bytes: int) -> int | None:
    """The most GPU memory that one side needs in a step; None without a GPU.

    Other sides of the comparison are in the same memory: it is what torch allocates beyond the state before the step
    (by `torch.cuda.max_memory_allocated`), plus what the side itself holds all the time.

    Args:
        step: runs once more, and leaves no gradients behind.
        own_bytes: of the side's weights, buffers and optimizer state.
    """
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before + own_bytes
