"""Which way deformable attention is computed: by device and dtype, or as told."""

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

_asked: str | None = None


@contextlib.contextmanager
def use_deformable_attention_backend(name: str) -> Iterator[None]:
    """Within this context, compute deformable attention as told, in all threads.

    Args:
        name: one of `BACKENDS`.

    Raises:
        ValueError: for another name.
    """
    global _asked
    _require_known(name)
    before, _asked = _asked, name
    try:
        yield
    finally:
        _asked = before


def select_backend(device: torch.device, dtype: torch.dtype, backend: str | None = None) -> str:
    """The name of the way that is taken for tensors like these.

    Args:
        device: of the value.
        dtype: of the value.
        backend: the caller's choice, which comes before that of `use_deformable_attention_backend`, which comes
            before that of the environment variable DETREX_LITE_DEFORMABLE_ATTENTION.

    Raises:
        ValueError: when the choice is unknown, or not available for these tensors.
    """
    backend = backend or _asked or os.environ.get(ENVIRONMENT_VARIABLE)
    if backend:
        _require_known(backend)
        reason = _unavailable(backend, device, dtype)
        if reason is not None:
            raise ValueError(f"deformable attention by {backend!r} was asked for, but {reason}")
        return backend
    if device.type == "cpu":
        return "embedding_bag"
    return "triton" if _unavailable("triton", device, dtype) is None else "reference"


def describe_backend(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """The name of the way that is taken, and what it is; for a run's first lines."""
    name = select_backend(device, dtype)
    return f"{name} ({BACKENDS[name]})"


def _require_known(name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"there is no way {name!r} to compute deformable attention{did_you_mean(name, BACKENDS)}")


def _unavailable(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this way cannot be taken, or None."""
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
