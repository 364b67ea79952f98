"""Multi-scale deformable attention as a block (Deformable DETR, Zhu et al., ICLR 2021, section 4.1).

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import did_you_mean
from ..ops import multi_scale_deformable_attention, multi_scale_deformable_attention_from_offsets
from ..ops.deformable_attention import level_sizes, sampling_locations
from .attention import check_num_heads
from .precision import in_own_precision

SAMPLINGS = ("bilinear", "discrete")


class MultiScaleDeformableAttention(nn.Module):
    """`identity + dropout(attention)`, where each query samples a few points near its reference point.

    Sampling offsets and attention weights are predicted from the query (with its position); queries are not compared
    with keys. The block can replace `MultiheadAttention` in any layer. In a `BaseTransformerLayer`, pass
    `reference_points` and `spatial_shapes` in `cross_attn_inputs`, or in `self_attn_inputs` when it is the
    self-attention.

    Under autocast, offsets are still computed in the precision of their weights, because bfloat16 would round an offset
    of 5 cells to 1/32 of a cell.

    Args:
        embed_dim: C, of queries, values and the result.
        num_heads: H; must divide `embed_dim`.
        num_levels: L feature maps.
        num_points: P points per head and level, or a list with one number per level.
        dropout: dropout probability of the result before `identity` is added, in training.
        sampling: "bilinear", or "discrete" to read one cell per point, which is meant for fine-tuning a trained
            detector (RT-DETRv2, Lv et al., 2024, section 2). The cell is the location plus half a cell, rounded down
            and clamped to the map. Locations then have no gradients, and `sampling_offsets` is frozen.
        value_proj: whether values are projected by a linear layer; D-FINE samples the memory directly.
        output_proj: whether the output is projected by a linear layer.

    Raises:
        ValueError: when `embed_dim` is not a multiple of `num_heads`, `num_points` does not have one number per level
            or has a number below 1, or `sampling` is unknown.
    """

    # For levels with different numbers of points, all are padded to the largest number, P.
    _point_index: Tensor  # (L * P,) index of each padded point among the points of a head
    _point_scale: Tensor  # (L * P, 1) P over the number of points of the level
    _point_padding: Tensor  # (L * P,) bool, True = padding

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int | Sequence[int] = 4,
        dropout: float = 0.1,
        sampling: str = "bilinear",
        value_proj: bool = True,
        output_proj: bool = True,
    ):
        super().__init__()
        check_num_heads(embed_dim, num_heads)
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling={sampling!r}{did_you_mean(sampling, SAMPLINGS)}")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = (num_points,) * num_levels if isinstance(num_points, int) else tuple(num_points)
        if len(self.num_points) != num_levels or min(self.num_points) < 1:
            raise ValueError(
                f"num_points={num_points} with {num_levels} levels: give one number, or one for each level"
            )
        self.sampling = sampling
        samples = num_heads * sum(self.num_points)
        self.sampling_offsets = nn.Linear(embed_dim, samples * 2).requires_grad_(sampling == "bilinear")
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim) if value_proj else nn.Identity()
        self.output_proj = nn.Linear(embed_dim, embed_dim) if output_proj else nn.Identity()
        if len(set(self.num_points)) > 1:
            self._pad_points()
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spread the heads over different directions, the points at 1, 2, ... cells, with equal weights (A.4)."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions /= directions.abs().amax(dim=-1, keepdim=True)  # on a square, so that axes get whole cells
        distances = torch.cat([torch.arange(1, number + 1) for number in self.num_points])
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((directions[:, None] * distances[:, None]).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            if isinstance(projection, nn.Linear):
                nn.init.xavier_uniform_(projection.weight)
                nn.init.zeros_(projection.bias)

    def _pad_points(self) -> None:
        """Pad levels with fewer points by points of zero weight: the operators need the same number on each level."""
        max_points, index, first = max(self.num_points), [], 0
        for number in self.num_points:
            index += [first + min(slot, number - 1) for slot in range(max_points)]
            first += number
        padding = [slot >= number for number in self.num_points for slot in range(max_points)]
        scale = [max_points / number for number in self.num_points for _ in range(max_points)]
        self.register_buffer("_point_index", torch.tensor(index), persistent=False)
        self.register_buffer("_point_padding", torch.tensor(padding), persistent=False)
        self.register_buffer("_point_scale", torch.tensor(scale)[:, None], persistent=False)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        *,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, N, C), which is sampled when there is no `value`; `query` when None.
            value: (B, N, C), the feature maps, flattened row by row, level after level.
            identity: (B, Q, C), to which the result is added; `query` when None.
            query_pos: added to the query; broadcastable to (B, Q, C).
            key_pos: unused; accepted so that all attentions have the same signature.
            attn_mask: must be None, because queries are not compared with keys.
            key_padding_mask: bool, (B, N); True = padding, which is sampled as zero.
            reference_points: (B, Q, L, 2) points, or (B, Q, L, 4) cxcywh boxes whose size scales the offsets;
                normalised to 0..1 by the size of each padded map.
            spatial_shapes: L pairs (height, width).

        Returns:
            (B, Q, C).

        Raises:
            ValueError: for an `attn_mask`, a `key_padding_mask` that is not bool, or shapes that do not match.
        """
        if attn_mask is not None:
            raise ValueError("deformable attention cannot take an attn_mask: its queries are not compared with keys")
        if len(spatial_shapes) != self.num_levels:
            raise ValueError(
                f"{len(spatial_shapes)} feature maps were given to an attention of {self.num_levels} levels"
            )
        value = (query if key is None else key) if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos

        value = self.value_proj(value)
        if key_padding_mask is not None:
            if key_padding_mask.dtype != torch.bool:
                raise ValueError(f"key_padding_mask must be bool (True = padding), got {key_padding_mask.dtype}")
            value = value.masked_fill(key_padding_mask[..., None], 0)
        offsets = in_own_precision(self.sampling_offsets, query).unflatten(-1, (self.num_heads, -1, 2))
        logits = self.attention_weights(query).unflatten(-1, (self.num_heads, -1))
        if len(set(self.num_points)) > 1:
            offsets, logits = offsets[..., self._point_index, :], logits[..., self._point_index]
            logits = logits.masked_fill(self._point_padding, float("-inf"))
            if reference_points.shape[-1] == 4:  # the operator divides such offsets by the padded number of points
                offsets = offsets * self._point_scale.to(offsets.dtype)
        out = self.sample(
            value.unflatten(-1, (self.num_heads, -1)),
            spatial_shapes,
            reference_points,
            offsets.unflatten(-2, (self.num_levels, -1)),
            logits.unflatten(-1, (self.num_levels, -1)),
        )
        return identity + self.dropout(self.output_proj(out))

    def sample(
        self,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        reference_points: Tensor,
        offsets: Tensor,
        logits: Tensor,
    ) -> Tensor:
        """Read the values; see `multi_scale_deformable_attention_from_offsets`."""
        if self.sampling == "bilinear":
            return multi_scale_deformable_attention_from_offsets(
                value, spatial_shapes, reference_points, offsets, logits
            )
        with torch.no_grad():
            locations = sampling_locations(reference_points, offsets, spatial_shapes)
            # Sampling at the centre of a cell reads only that cell.
            sizes = level_sizes(locations, spatial_shapes)[:, None]
            cells = torch.minimum((locations * sizes + 0.5).trunc().clamp(min=0), sizes - 1)
            locations = (cells + 0.5) / sizes
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        return multi_scale_deformable_attention(value, spatial_shapes, locations, weights)
