"""Training that gives the same numbers again, as far as torch can, and says where it cannot."""

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...layers import MultiScaleDeformableAttention
from ...ops.deformable_attention import select_backend
from ...ops.deformable_attention.backends import ENVIRONMENT_VARIABLE

logger = logging.getLogger(__name__)

# How torch's warnings about this begin, or what they have in them.
NOT_DETERMINISTIC = re.compile(r"does not have a deterministic implementation|non-?deterministic", re.IGNORECASE)


@contextlib.contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Inside, torch takes deterministic algorithms where it has them; each operator that has none is logged once.

    Args:
        enabled: do so; otherwise nothing changes.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        with _logging_what_is_not():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def name_own_kernels(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Log what of this package, which torch knows nothing of, is not deterministic in `model`.

    Args:
        model: the model.
        device: where it is trained.
        dtype: of its activations.
    """
    has_attention = any(isinstance(module, MultiScaleDeformableAttention) for module in model.modules())
    if has_attention and select_backend(device, dtype) == "triton":
        logger.warning(
            "Not deterministic: the gradient of deformable attention, by Triton kernels. %s=reference in the "
            "environment takes plain operations of torch, and much longer.",
            ENVIRONMENT_VARIABLE,
        )


@contextlib.contextmanager
def _logging_what_is_not() -> Iterator[None]:
    told: set[str] = set()

    def show(message: Warning | str, *details: Any, **more: Any) -> None:
        text = str(message)
        if NOT_DETERMINISTIC.search(text) is None:
            shown_before(message, *details, **more)
            return
        what = re.split(r", but you set|\. ", text)[0]
        if what not in told:
            told.add(what)
            logger.warning("Not deterministic: %s. Runs may differ in their last digits.", what)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f"(?s).*({NOT_DETERMINISTIC.pattern})", category=UserWarning)
        shown_before = warnings.showwarning
        warnings.showwarning = show
        yield
