"""Reference implementation of multi-scale deformable attention for any device and dtype, written as the equation.

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels of a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def deformable_attention_reference(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """See `multi_scale_deformable_attention`. Half precision is computed in float32."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    locations, weights = locations.to(dtype), weights.to(dtype)
    levels = value.to(dtype).split([height * width for height, width in spatial_shapes], dim=1)
    out = torch.zeros((), dtype=dtype, device=value.device)
    for number, (level, shape) in enumerate(zip(levels, spatial_shapes, strict=True)):
        sampled = _sample(level, shape, locations[:, :, :, number])  # (B, Q, H, P, C)
        out = out + (sampled * weights[:, :, :, number, :, None]).sum(dim=3)
    return out.flatten(2).to(value.dtype)


def _sample(level: Tensor, shape: tuple[int, int], locations: Tensor) -> Tensor:
    """Interpolate a zero-padded map (B, h * w, H, C) at locations (B, Q, H, P, 2). Returns (B, Q, H, P, C)."""
    height, width = shape
    # A cell's centre is at half-integers of the map: 0.5 / width is the centre of the first column.
    x, y = locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5  # (B, Q, H, P)
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    total = torch.zeros((), dtype=level.dtype, device=level.device)
    for row, row_share in ((top, 1 - bottom_share), (top + 1, bottom_share)):
        for column, column_share in ((left, 1 - right_share), (left + 1, right_share)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            # The index is computed in integers, because float32 cannot count the cells of a large map.
            cell = (row.long() * width + column.long()).masked_fill(~inside, 0)
            share = (row_share * column_share).masked_fill(~inside, 0)
            total = total + _cells(level, cell) * share[..., None]
    return total


def _cells(level: Tensor, cell: Tensor) -> Tensor:
    """Gather cells. level: (B, h * w, H, C); cell: (B, Q, H, P) indices. Returns (B, Q, H, P, C)."""
    batch = torch.arange(cell.shape[0], device=cell.device)[:, None, None, None]
    head = torch.arange(cell.shape[2], device=cell.device)[:, None]
    return level[batch, cell, head]


def sampling_locations(reference_points: Tensor, offsets: Tensor, spatial_shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Compute sampling locations from reference points and offsets (Zhu et al., appendix A.4).

    Args:
        reference_points: (B, Q, L, 2) points, or (B, Q, L, 4) cxcywh boxes, normalised to 0..1 by the padded map.
        offsets: (B, Q, H, L, P, 2), x first; in cells of each level for points, and in units of half the box side over
            P for boxes.
        spatial_shapes: L pairs (height, width).

    Returns:
        (B, Q, H, L, P, 2), normalised to 0..1 by the padded map.

    Raises:
        ValueError: when reference points have neither 2 nor 4 coordinates.
    """
    coordinates = reference_points.shape[-1]
    points = reference_points[:, :, None, :, None, :]
    if coordinates == 2:
        # Computed in the dtype of the points, because half precision does not represent every map size.
        return points + offsets / level_sizes(points, spatial_shapes)[:, None]
    if coordinates == 4:
        num_points = offsets.shape[-2]
        return points[..., :2] + offsets / num_points * points[..., 2:] * 0.5
    raise ValueError(f"reference points have 2 coordinates (x, y) or 4 (cx, cy, w, h), got {coordinates}")


def level_sizes(like: Tensor, spatial_shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Return width and height of L levels, (L, 2), with the dtype and device of `like`; exported graphs trace it."""
    sides = [like.new_full((), side) for height, width in spatial_shapes for side in (width, height)]
    return torch.stack(sides).view(-1, 2)
