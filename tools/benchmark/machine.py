"""The machine of a measurement, and the memory that the measurement took."""

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
    """The device with a name; "auto" is a GPU if one is available.

    Raises:
        BenchmarkError: when the device is not available.
    """
    try:
        return devices.choose_device(name)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Facts about the machine and the versions of packages that affect measurements, as plain values."""
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
    """Format the result of `machine_facts` as one line."""
    gpu = f"{facts['gpu']}, CUDA {facts['cuda']}; " if "gpu" in facts else ""
    return f"{gpu}{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, torch {facts['torch']}"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_resident_bytes() -> int | None:
    """The peak resident size of this process, all sides of a comparison together; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_bytes(step: Callable[[], object], device: torch.device, own_bytes: int) -> int | None:
    """The peak GPU memory that one side needs in a step; None without a GPU.

    Other sides of the comparison occupy the same memory. The result is therefore the memory that torch allocates in
    addition to what was allocated before the step (by `torch.cuda.max_memory_allocated`), plus `own_bytes`.

    Args:
        step: is run once, and must leave no gradients behind.
        own_bytes: size of the side's weights, buffers and optimizer state.
    """
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    allocated_before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - allocated_before + own_bytes
