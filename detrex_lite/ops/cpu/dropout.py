"""Dropout on a CPU, whose masks take four elements from each random number.

torch draws one random number per element, and does so serially: an eighth of a training step of Deformable DETR. Here
64 random bits decide on four elements. The probability is rounded to a multiple of 2^-16, and what is kept is scaled by
the rounded probability, so that the mean is exact.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

VALUES = 1 << 16  # of 16 random bits


def drop_threshold(p: float, training: bool = True) -> int:
    """How many of the 65,536 values of 16 random bits mean that an element is dropped; 0 outside of training.

    Args:
        p: the probability that an element is dropped, in 0..1.
        training: whether anything is dropped.
    """
    return round(p * VALUES) if training else 0


def dropout(x: Tensor, threshold: int) -> Tensor:
    """Drop elements of `x`, which lies on a CPU, and scale the others so that the mean stays.

    Args:
        x: of any shape.
        threshold: see `drop_threshold`; above 0 and below 65,536.
    """
    return x * draw_kept(x.shape, threshold).to(x.dtype).mul_(kept_scale(threshold))


def draw_kept(shape: Sequence[int], threshold: int) -> Tensor:
    """A bool tensor of `shape` on the CPU that is False with the probability `threshold / 65536`."""
    count = torch.Size(shape).numel()
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    return numbers.view(torch.int16)[:count].view(shape) >= threshold - VALUES // 2


def kept_scale(threshold: int) -> float:
    """The factor for what is kept that preserves the mean."""
    return VALUES / (VALUES - threshold)
