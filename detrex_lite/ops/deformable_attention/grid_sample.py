"""Multi-scale deformable attention by grid_sample, one operator per level, which can be exported.

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels of a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention_grid_sample(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """See `multi_scale_deformable_attention`. Half precision is computed in float32."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    maps = value.to(dtype).permute(0, 2, 3, 1).flatten(0, 1)  # (B * H, C, N)
    grid = (2 * locations.to(dtype) - 1).transpose(1, 2).flatten(0, 1)  # (B * H, Q, L, P, 2), in -1..1
    shares = weights.to(dtype).transpose(1, 2).flatten(0, 1)[:, None]  # (B * H, 1, Q, L, P)
    levels = maps.split([height * width for height, width in spatial_shapes], dim=2)
    out = torch.zeros((), dtype=dtype, device=value.device)
    for number, (level, shape) in enumerate(zip(levels, spatial_shapes, strict=True)):
        sampled = F.grid_sample(level.unflatten(2, shape), grid[:, :, number], align_corners=False)
        out = out + (sampled * shares[:, :, :, number]).sum(-1)  # (B * H, C, Q)
    return out.unflatten(0, (value.shape[0], value.shape[2])).flatten(1, 2).transpose(1, 2).to(value.dtype)
