"""The table that deformable attention on a CPU reads: all levels of an image, with borders of zeros around them.

With these borders, samples outside a level read zeros, so that no mask is needed.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TableLayout(NamedTuple):
    """The positions of the cells of all levels in the table, and constants of the index arithmetic.

    Each level has a row of zeros above and below and a column of zeros at the left, which also serves as the right
    border of the previous row. Vectors have one entry per head, level and point, (H * L * P,).
    """

    shapes: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]  # the first row of each level, in tokens
    end: int  # the row after the last level, in tokens
    tokens: int  # number of tokens of an image in the table
    widths: Tensor
    heights: Tensor
    # Row indices are int32, because float32 cannot represent all integers above 2**24.
    heads: Tensor  # (1,), offset in rows from a cell to its right neighbour
    below: Tensor  # offset in rows from a cell to its lower neighbour
    bases: Tensor  # row of the border cell above and to the left of the first cell of a level
    last: int  # the largest row index of a top left corner

    def table(self, value: Tensor) -> Tensor:
        """Add the borders of zeros: value (B, N, H, C) to (B, tokens, H, C)."""
        table = value.new_empty(value.shape[0], self.tokens, *value.shape[2:])
        for level, part in self._levels(table, value):
            level[:, 0] = level[:, -1] = level[:, 1:-1, 0] = 0
            level[:, 1:-1, 1:] = part
        table[:, self.end :] = 0
        return table

    def value(self, table: Tensor) -> Tensor:
        """Remove the borders, the inverse of `table`: (B, tokens, H, C) to (B, N, H, C)."""
        tokens = sum(height * width for height, width in self.shapes)
        value = table.new_empty(table.shape[0], tokens, *table.shape[2:])
        for level, part in self._levels(table, value):
            part.copy_(level[:, 1:-1, 1:])
        return value

    def _levels(self, table: Tensor, value: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over views of each level: (B, h + 2, w + 1, H, C) of the table and (B, h, w, H, C) of the value."""
        parts = value.split([height * width for height, width in self.shapes], dim=1)
        for (height, width), start, part in zip(self.shapes, self.starts, parts, strict=True):
            bordered = (height + 2, width + 1)
            level = table[:, start : start + math.prod(bordered)].unflatten(1, bordered)
            yield level, part.unflatten(1, (height, width))


@functools.lru_cache(maxsize=64)
def table_layout(flat_shapes: tuple[int, ...], heads: int, points: int, dtype: torch.dtype) -> TableLayout:
    """Compute the layout for levels of (height, width, height, width, ...) cells; results are cached.

    Raises:
        ValueError: when the number of rows exceeds the range of int32.
    """
    shapes = tuple(zip(flat_shapes[0::2], flat_shapes[1::2], strict=True))
    sizes = [(height + 2) * (width + 1) for height, width in shapes]
    starts = [sum(sizes[:level]) for level in range(len(shapes))]
    strides = [width + 1 for _, width in shapes]

    # Points on the lower border have neighbours with weight 0 beyond the last row.
    tokens = sum(sizes) + max(strides) + 1
    if tokens * heads >= 2**31:
        raise ValueError(
            f"feature maps of {sum(height * width for height, width in shapes)} cells with {heads} heads exceed the "
            "32-bit indices of deformable attention on a CPU: use smaller images"
        )

    def vector(per_level: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(per_level, dtype=dtype).repeat_interleave(points).repeat(heads)

    with torch.inference_mode(False):  # training may use a layout that evaluation has cached
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
