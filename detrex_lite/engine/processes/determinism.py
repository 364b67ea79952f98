"""Deterministic training, as far as torch supports it, with a warning for each operation that is not deterministic."""

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

# Matches torch's warnings about operations that are not deterministic.
NOT_DETERMINISTIC = re.compile(r"does not have a deterministic implementation|non-?deterministic", re.IGNORECASE)


@contextlib.contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Inside this context, torch uses deterministic algorithms; each operator that has none is logged once.

    Args:
        enabled: False changes nothing.
    """
    if not enabled:
        yield
        return
    previous = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        with _nondeterminism_logged():
            yield
    finally:
        torch.use_deterministic_algorithms(previous[0], warn_only=previous[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def name_own_kernels(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Log which kernels of this package that `model` uses are not deterministic; torch does not warn about them.

    Args:
        model: the model.
        device: the device on which it is trained.
        dtype: the data type of its activations.
    """
    has_attention = any(isinstance(module, MultiScaleDeformableAttention) for module in model.modules())
    if has_attention and select_backend(device, dtype) == "triton":
        logger.warning(
            "Not deterministic: the gradient of deformable attention, by Triton kernels. %s=reference in the "
            "environment uses plain torch operations instead, which take much longer.",
            ENVIRONMENT_VARIABLE,
        )


@contextlib.contextmanager
def _nondeterminism_logged() -> Iterator[None]:
    logged: set[str] = set()

    def show(message: Warning | str, *details: Any, **options: Any) -> None:
        text = str(message)
        if NOT_DETERMINISTIC.search(text) is None:
            previous_show(message, *details, **options)
            return
        operator = re.split(r", but you set|\. ", text)[0]
        if operator not in logged:
            logged.add(operator)
            logger.warning("Not deterministic: %s. Runs may differ in their last digits.", operator)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f"(?s).*({NOT_DETERMINISTIC.pattern})", category=UserWarning)
        previous_show = warnings.showwarning
        warnings.showwarning = show
        yield
