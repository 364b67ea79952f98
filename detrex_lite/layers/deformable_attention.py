"""Multi-scale deformable attention as a block (Deformable DETR, Zhu et al., ICLR 2021, section 4.1).

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import multi_scale_deformable_attention_from_offsets
from .attention import check_num_heads
from .precision import in_own_precision


class MultiScaleDeformableAttention(nn.Module):
    """`identity + dropout(attention)`, where each query reads a few points near its reference point.

    A query (with its position) says where to look, as offsets from its reference point, and how much each point counts;
    it is never compared with keys. It can be put wherever a layer has `MultiheadAttention`. In a
    `BaseTransformerLayer`, give `reference_points` and `spatial_shapes` in `cross_attn_inputs` (in `self_attn_inputs`
    where it is the self-attention).

    Under autocast offsets are computed in the precision of their weights: bfloat16 rounds an offset of 5 cells to a
    32nd of a cell.

    Args:
        embed_dim: C, of queries, values and the result.
        num_heads: H; must divide `embed_dim`.
        num_levels: L feature maps.
        num_points: P points per head and level.
        dropout: dropout probability of the result before `identity` is added, in training.

    Raises:
        ValueError: when `embed_dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.1,
    ):
        super().__init__()
        check_num_heads(embed_dim, num_heads)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.sampling_offsets = nn.Linear(embed_dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(embed_dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in different directions, each next point one cell further, all with the same weight (A.4)."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions /= directions.abs().amax(dim=-1, keepdim=True)  # onto a square: whole cells along the axes
        distances = torch.arange(1, self.num_points + 1)
        ring = directions[:, None, None] * distances[:, None]  # (H, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

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
            key: (B, N, C), what is read when there is no `value`; `query` when None.
            value: (B, N, C), the feature maps, flattened row by row, level after level.
            identity: (B, Q, C), what the result is added to; `query` when None.
            query_pos: (B, Q, C) or what broadcasts to it, added to the query.
            key_pos: taken so that all attentions are called alike, and not used: keys are not compared.
            attn_mask: must be None: there is nothing that it could mask.
            key_padding_mask: bool, (B, N); True = padding, which reads as zero.
            reference_points: (B, Q, L, 2) points, or (B, Q, L, 4) cxcywh boxes whose size scales the offsets; in 0..1
                of each map with its padding.
            spatial_shapes: L pairs (height, width).

        Returns:
            (B, Q, C).

        Raises:
            ValueError: for an `attn_mask`, a `key_padding_mask` that is not bool, or shapes that do not fit.
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
        samples = (self.num_heads, self.num_levels, self.num_points)
        out = multi_scale_deformable_attention_from_offsets(
            value.unflatten(-1, (self.num_heads, -1)),
            spatial_shapes,
            reference_points,
            in_own_precision(self.sampling_offsets, query).unflatten(-1, (*samples, 2)),
            self.attention_weights(query).unflatten(-1, samples),
        )
        return identity + self.dropout(self.output_proj(out))
