"""Dropout on a CPU that draws the mask of four elements from each random number.

torch draws one random number per element, serially, which takes an eighth of a training step of Deformable DETR. Here
64 random bits decide on four elements. The probability is rounded to a multiple of 2^-16, and kept elements are scaled
by the rounded probability, so that the mean is exact.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

VALUES = 1 << 16  # number of values of 16 random bits


def drop_threshold(p: float, training: bool = True) -> int:
    """Convert a dropout probability to the number of the 65,536 values of 16 random bits that drop an element.

    Args:
        p: the probability that an element is dropped, in 0..1.
        training: whether dropout is active; otherwise the result is 0.
    """
    return round(p * VALUES) if training else 0


def dropout(x: Tensor, threshold: int) -> Tensor:
    """Drop elements of `x`, a tensor on the CPU, and scale the others to preserve the mean.

    Args:
        x: of any shape.
        threshold: see `drop_threshold`; above 0 and below 65,536.
    """
    return x * draw_kept(x.shape, threshold).to(x.dtype).mul_(kept_scale(threshold))


def draw_kept(shape: Sequence[int], threshold: int) -> Tensor:
    """Draw a bool tensor of `shape` on the CPU that is False with probability `threshold / 65536`."""
    count = torch.Size(shape).numel()
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    return numbers.view(torch.int16)[:count].view(shape) >= threshold - VALUES // 2


def kept_scale(threshold: int) -> float:
    """Return the factor of kept elements that preserves the mean."""
    return VALUES / (VALUES - threshold)
