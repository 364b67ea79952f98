"""Attention with separate projections for content and position (Conditional DETR, Meng et al., ICCV 2021).

Legend: B batch, Q queries, N keys, H heads, C channels.
Differences from the paper's repository: the projections, the positions and the residual connection are part of the
block, so that it can replace `MultiheadAttention` in a layer; parameter names are detrex's. Positions are required.
"""

import torch
from torch import Tensor, nn

from .attention import BaseAttention


class _ConditionalAttention(BaseAttention):
    """Base class of both attentions, with all projections but those of the queries' positions."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        batch_first: bool = True,
    ):
        super().__init__(embed_dim, num_heads, attn_drop, proj_drop, batch_first)
        self.query_content_proj = nn.Linear(embed_dim, embed_dim)
        self.key_content_proj = nn.Linear(embed_dim, embed_dim)
        self.key_pos_proj = nn.Linear(embed_dim, embed_dim)
        self.value_proj = nn.Linear(embed_dim, embed_dim)

    def reset_parameters(self) -> None:
        """See `BaseAttention.reset_parameters`."""
        super().reset_parameters()
        for projection in (self.query_content_proj, self.key_content_proj, self.key_pos_proj, self.value_proj):
            nn.init.xavier_uniform_(projection.weight)

    def _required(self, **inputs: Tensor | None) -> tuple[Tensor, ...]:
        for name, value in inputs.items():
            if value is None:
                further = name == "query_sine_embed"
                hint = "; a BaseTransformerLayer takes it in cross_attn_inputs" if further else ""
                raise ValueError(f"{type(self).__name__} projects positions: it needs {name}, got None{hint}")
        return tuple(value for value in inputs.values() if value is not None)


class ConditionalSelfAttention(_ConditionalAttention):
    """Self-attention of the queries, in which content and position are projected separately and then added.

    Args:
        embed_dim, num_heads, attn_drop, proj_drop, batch_first: see `BaseAttention`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        batch_first: bool = True,
    ):
        super().__init__(embed_dim, num_heads, attn_drop, proj_drop, batch_first)
        self.query_pos_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """See `BaseAttention.reset_parameters`."""
        super().reset_parameters()
        nn.init.xavier_uniform_(self.query_pos_proj.weight)

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
        attn_bias: Tensor | None = None,
        num_groups: int = 1,
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, N, C); `query` when None.
            value: (B, N, C); `key` when None.
            identity: (B, Q, C), to which the result is added; `query` when None.
            query_pos: the position of the query; broadcastable to (B, Q, C).
            key_pos: the position of the key; `query_pos` when both `key_pos` and `key` are None.
            attn_mask: bool, (Q, N), (B, Q, N) or (B * H, Q, N); True = not attended.
            key_padding_mask: bool, (B, N); True = not attended.
            attn_bias: floating point, added to the logits: (Q, N), (B, Q, N), or broadcastable to (B, H, Q, N).
            num_groups: number of groups of queries that attend only to themselves; see `MultiheadAttention.forward`.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: without positions; when a mask is not bool, the bias is not floating point, a mask or bias has
                the wrong shape, or `num_groups` does not divide Q or is used with a key that is not the query.
        """
        if key is None:
            key = query
            key_pos = query_pos if key_pos is None else key_pos
        value = key if value is None else value
        identity = query if identity is None else identity
        self.check_groups(num_groups, query, key)
        query_pos, key_pos = self._required(query_pos=query_pos, key_pos=key_pos)
        q = self.split_heads(self.query_content_proj(query) + self.query_pos_proj(query_pos))
        k = self.split_heads(self.key_content_proj(key) + self.key_pos_proj(key_pos))
        v = self.split_heads(self.value_proj(value))
        return identity + self.attend(q, k, v, attn_mask, key_padding_mask, attn_bias, num_groups)


class ConditionalCrossAttention(_ConditionalAttention):
    """Cross-attention that compares content with content and position with position.

    In each head the channels of content and position are concatenated, so that a logit is the sum of two
    products, (content q, content k) and (position q, position k), over the square root of 2 C / H. The position of
    a query is `query_sine_embed`, a sine embedding of its reference point.

    Args:
        embed_dim, num_heads, attn_drop, proj_drop, batch_first: see `BaseAttention`.
        add_query_pos: also add positions to contents: `query_pos`, by one more projection, to those of the queries.
            Conditional DETR and DAB-DETR do so in the first decoder layer, where queries have no content yet.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        batch_first: bool = True,
        add_query_pos: bool = False,
    ):
        super().__init__(embed_dim, num_heads, attn_drop, proj_drop, batch_first)
        self.query_pos_proj = nn.Linear(embed_dim, embed_dim) if add_query_pos else None
        self.query_pos_sine_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """See `BaseAttention.reset_parameters`."""
        super().reset_parameters()
        nn.init.xavier_uniform_(self.query_pos_sine_proj.weight)
        if self.query_pos_proj is not None:
            nn.init.xavier_uniform_(self.query_pos_proj.weight)

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
        query_sine_embed: Tensor | None = None,
        *,
        attn_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, N, C); `query` when None.
            value: (B, N, C); `key` when None.
            identity: (B, Q, C), to which the result is added; `query` when None.
            query_pos: the position of the query, used with `add_query_pos` only; broadcastable to (B, Q, C).
            key_pos: the position of the key; broadcastable to (B, N, C).
            attn_mask: bool, (Q, N), (B, Q, N) or (B * H, Q, N); True = not attended.
            key_padding_mask: bool, (B, N); True = not attended.
            query_sine_embed: compared with `key_pos`; broadcastable to (B, Q, C). In a `BaseTransformerLayer`, pass it
                in `cross_attn_inputs`.
            attn_bias: floating point, added to the logits: (Q, N), (B, Q, N), or broadcastable to (B, H, Q, N).

        Returns:
            (B, Q, C).

        Raises:
            ValueError: without positions, or when a mask is not bool, the bias is not floating point, or a mask or bias
                has the wrong shape.
        """
        key = query if key is None else key
        value = key if value is None else value
        identity = query if identity is None else identity
        key_pos, query_sine_embed = self._required(key_pos=key_pos, query_sine_embed=query_sine_embed)
        query_content, query_position = self.query_content_proj(query), self.query_pos_sine_proj(query_sine_embed)
        key_content, key_position = self.key_content_proj(key), self.key_pos_proj(key_pos)
        if self.query_pos_proj is not None:
            (query_pos,) = self._required(query_pos=query_pos)
            query_content = query_content + self.query_pos_proj(query_pos)
            key_content = key_content + key_position
        q, k = self._join(query_content, query_position), self._join(key_content, key_position)
        v = self.split_heads(self.value_proj(value))
        return identity + self.attend(q, k, v, attn_mask, key_padding_mask, attn_bias)

    def _join(self, content: Tensor, position: Tensor) -> Tensor:
        """Concatenate content and position, (B, tokens, C) each, to (B, H, tokens, 2 * C / H)."""
        return torch.cat([self.split_heads(content), self.split_heads(position.expand_as(content))], dim=-1)
