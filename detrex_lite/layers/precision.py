"""Modules that need a higher precision than autocast gives them."""

import torch
from torch import Tensor, nn


def in_own_precision(module: nn.Module, x: Tensor) -> Tensor:
    """Call a module without autocast, in the precision of its weights, which is float32 in mixed precision.

    It is meant for small projections that predict coordinates, because bfloat16 has a mantissa of only 8 bits.

    Args:
        module: a module with one input and parameters of one dtype. Without parameters, for example when quantised, it
            computes in float32 at least.
        x: the input, of any floating-point dtype.
    """
    weight = next(module.parameters(), None)
    dtype = torch.promote_types(x.dtype, torch.float32) if weight is None else weight.dtype
    with torch.autocast(x.device.type, enabled=False):
        return module(x.to(dtype))
