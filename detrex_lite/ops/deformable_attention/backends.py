"""The backends of deformable attention and their selection, by device and dtype or by request."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator

import torch

from ...errors import did_you_mean

ENVIRONMENT_VARIABLE = "DETREX_LITE_DEFORMABLE_ATTENTION"
BACKENDS = {
    "reference": "plain torch operations, any device and dtype",
    "grid_sample": "torch's grid_sample, any device: one operator for each level in exported graphs",
    "embedding_bag": "torch's embedding_bag, on a CPU",
    "triton": "Triton kernels, on a GPU",
}

_requested: str | None = None


@contextlib.contextmanager
def use_deformable_attention_backend(name: str) -> Iterator[None]:
    """Compute deformable attention with the given backend within this context, in all threads.

    Args:
        name: one of `BACKENDS`.

    Raises:
        ValueError: for an unknown name.
    """
    global _requested
    _require_known(name)
    previous, _requested = _requested, name
    try:
        yield
    finally:
        _requested = previous


def select_backend(device: torch.device, dtype: torch.dtype, backend: str | None = None) -> str:
    """Select the backend for a device and dtype.

    Args:
        device: of the value.
        dtype: of the value.
        backend: the caller's choice. It takes precedence over `use_deformable_attention_backend`, which takes
            precedence over the environment variable DETREX_LITE_DEFORMABLE_ATTENTION.

    Returns:
        One of `BACKENDS`.

    Raises:
        ValueError: when the chosen backend is unknown or does not support these tensors.
    """
    backend = backend or _requested or os.environ.get(ENVIRONMENT_VARIABLE)
    if backend:
        _require_known(backend)
        reason = _unavailable(backend, device, dtype)
        if reason is not None:
            raise ValueError(f"the deformable attention backend {backend!r} was requested, but {reason}")
        return backend
    if device.type == "cpu":
        return "embedding_bag"
    return "triton" if _unavailable("triton", device, dtype) is None else "reference"


def describe_backend(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """Return the name and description of the selected backend, for the first lines of a log."""
    name = select_backend(device, dtype)
    return f"{name} ({BACKENDS[name]})"


def _require_known(name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"unknown deformable attention backend {name!r}{did_you_mean(name, BACKENDS)}")


def _unavailable(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the reason why the backend does not support these tensors, or None if it does."""
    if name == "embedding_bag" and device.type != "cpu":
        return f"it runs on a CPU, and the tensors are on {device}"
    if name == "triton":
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed (it comes with torch's CUDA builds)"
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"it runs on a GPU, and the tensors are on {device}"
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return f"its kernels take float32, float16 and bfloat16, not {dtype}"
    return None
