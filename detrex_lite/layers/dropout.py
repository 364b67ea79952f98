"""Dropout whose masks are drawn four to a random number on a CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_VALUES = 1 << 16  # of 16 random bits


class Dropout(nn.Dropout):
    """torch.nn.Dropout, with its meaning; on a CPU its masks take a third to a fifth of the time.

    There torch draws a number for each element, one after the other, which took an eighth of a training step of
    Deformable DETR. Here 64 random bits decide on four elements: the probability is rounded to a multiple of 2^-16, and
    what is kept is scaled by the rounded one, so that the mean is exact.
    """

    @property
    def dropped(self) -> int:
        """Of 65,536 values how many are dropped on average: 0 in evaluation."""
        return round(self.p * _VALUES) if self.training else 0

    def forward(self, x: Tensor) -> Tensor:
        dropped = self.dropped
        if x.device.type != "cpu" or not 0 < dropped < _VALUES or torch.compiler.is_compiling():
            return super().forward(x)
        return x * draw_kept(x.shape, dropped).to(x.dtype).mul_(kept_scale(dropped))


def draw_kept(shape: Sequence[int], dropped: int) -> Tensor:
    """bool of `shape` on the CPU, False for `dropped` of 65,536 values on average."""
    count = torch.Size(shape).numel()
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    return numbers.view(torch.int16)[:count].view(shape) >= dropped - _VALUES // 2


def kept_scale(dropped: int) -> float:
    """What keeps the mean when `dropped` of 65,536 values are zero."""
    return _VALUES / (_VALUES - dropped)
