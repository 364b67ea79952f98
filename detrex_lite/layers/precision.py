"""Modules that need more digits than autocast leaves them."""

import torch
from torch import Tensor, nn


def in_own_precision(module: nn.Module, x: Tensor) -> Tensor:
    """What a module gives without autocast, in the precision of its weights: float32 in mixed precision.

    For small projections whose results are places: bfloat16 has 8 digits of a mantissa.

    Args:
        module: of one input, with parameters of one dtype; without parameters, as when it is quantised, it computes in
            float32 at least.
        x: its input, of any floating-point dtype.
    """
    weight = next(module.parameters(), None)
    dtype = torch.promote_types(x.dtype, torch.float32) if weight is None else weight.dtype
    with torch.autocast(x.device.type, enabled=False):
        return module(x.to(dtype))
