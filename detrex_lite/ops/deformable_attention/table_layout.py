"""The table that deformable attention on a CPU reads: all levels of an image, with borders of zeros around them.

With borders a sample beside a level reads zeros as others read cells: nothing needs a mask.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TableLayout(NamedTuple):
    """Where the cells of the levels are in the table, and constants of the index arithmetic.

    Each level has a row of zeros above and below and a column of zeros at its left, which is also the right neighbour
    of the row before. Vectors have an entry for each head, level and point: (H * L * P,).
    """

    shapes: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]  # the first row of each level, in tokens
    end: int  # the row after the last level, in tokens
    tokens: int  # of an image's part of the table
    widths: Tensor
    heights: Tensor
    # Rows of the table are int32: float32 does not tell them apart above 2**24.
    heads: Tensor  # (1,), rows from a cell to the one at its right
    below: Tensor  # rows from a cell to the one below it
    bases: Tensor  # row of the cell above and left of a level's first one
    last: int  # the last row of an image that a sample may begin at

    def table(self, value: Tensor) -> Tensor:
        """value (B, N, H, C) with its borders of zeros: (B, tokens, H, C)."""
        table = value.new_empty(value.shape[0], self.tokens, *value.shape[2:])
        for level, part in self._levels(table, value):
            level[:, 0] = level[:, -1] = level[:, 1:-1, 0] = 0
            level[:, 1:-1, 1:] = part
        table[:, self.end :] = 0
        return table

    def value(self, table: Tensor) -> Tensor:
        """What `table` puts inside the borders, (B, N, H, C)."""
        tokens = sum(height * width for height, width in self.shapes)
        value = table.new_empty(table.shape[0], tokens, *table.shape[2:])
        for level, part in self._levels(table, value):
            part.copy_(level[:, 1:-1, 1:])
        return value

    def _levels(self, table: Tensor, value: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of each level: (B, h + 2, w + 1, H, C) of the table and (B, h, w, H, C) of the value."""
        parts = value.split([height * width for height, width in self.shapes], dim=1)
        for (height, width), start, part in zip(self.shapes, self.starts, parts, strict=True):
            bordered = (height + 2, width + 1)
            level = table[:, start : start + math.prod(bordered)].unflatten(1, bordered)
            yield level, part.unflatten(1, (height, width))


@functools.lru_cache(maxsize=64)
def table_layout(flat_shapes: tuple[int, ...], heads: int, points: int, dtype: torch.dtype) -> TableLayout:
    """The layout for levels of (height, width, height, width, ...) cells; computed once for each set of arguments.

    Raises:
        ValueError: when the table has more rows than an int32 counts.
    """
    shapes = tuple(zip(flat_shapes[0::2], flat_shapes[1::2], strict=True))
    sizes = [(height + 2) * (width + 1) for height, width in shapes]
    starts = [sum(sizes[:level]) for level in range(len(shapes))]
    strides = [width + 1 for _, width in shapes]

    # Points on the lower border have neighbours, of weight 0, beyond the last row.
    tokens = sum(sizes) + max(strides) + 1
    if tokens * heads >= 2**31:
        raise ValueError(
            f"feature maps of {sum(height * width for height, width in shapes)} cells with {heads} heads are more than "
            "deformable attention on a CPU can count in 32 bits: use smaller images"
        )

    def vector(per_level: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(per_level, dtype=dtype).repeat_interleave(points).repeat(heads)

    with torch.inference_mode(False):  # training reads them after an evaluation that made them
        bases = vector(
            [(start + stride + 1) * heads for start, stride in zip(starts, strides, strict=True)], torch.int32
        )
        bases += torch.arange(heads, dtype=torch.int32).repeat_interleave(len(shapes) * points)
        return TableLayout(
            shapes=shapes,
            starts=tuple(starts),
            end=sum(sizes),
            tokens=tokens,
            widths=vector([width for _, width in shapes], dtype),
            heights=vector([height for height, _ in shapes], dtype),
            heads=torch.tensor([heads], dtype=torch.int32),
            below=vector([stride * heads for stride in strides], torch.int32),
            bases=bases,
            last=sum(sizes) * heads - 1,
        )
