"""Attention with projections of their own for contents and positions (Conditional DETR, Meng et al., ICCV 2021).

Legend: B batch, Q queries, N keys, H heads, C channels.
What differs from the paper's repository: the projections, the positions and the residual connection are inside, so
that a layer is made of these as of `MultiheadAttention`; parameter names are detrex's. Positions must be given.
"""

import torch
from torch import Tensor, nn

from .attention import attend, check_num_heads, join_heads, split_heads
from .dropout import Dropout
from .linear import Linear


class _ConditionalAttention(nn.Module):
    """What both attentions share: all projections but those of the queries' positions.

    Args:
        embed_dim: C, of queries, keys, values, positions and the result.
        num_heads: H; must divide `embed_dim`.
        attn_drop: dropout probability of the attention weights, in training.
        proj_drop: dropout probability of the result before `identity` is added, in training.
        batch_first: inputs are (B, Q, C) when true, (Q, B, C) otherwise.

    Raises:
        ValueError: when `embed_dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        batch_first: bool = True,
    ):
        super().__init__()
        check_num_heads(embed_dim, num_heads)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.batch_first = batch_first
        self.query_content_proj = Linear(embed_dim, embed_dim)
        self.key_content_proj = Linear(embed_dim, embed_dim)
        self.key_pos_proj = Linear(embed_dim, embed_dim)
        self.value_proj = Linear(embed_dim, embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)
        self.proj_drop = Dropout(proj_drop)

    def _split_heads(self, x: Tensor) -> Tensor:
        return split_heads(x, self.num_heads, self.batch_first)

    def _attend(
        self, q: Tensor, k: Tensor, value: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
    ) -> Tensor:
        """q, k: (B, H, Q or N, D); value: (B, N, C). Returns (B, Q, C), to be added to the identity."""
        dropout = self.attn_drop if self.training else 0.0
        v = self._split_heads(self.value_proj(value))
        out = attend(q, k, v, attn_mask=attn_mask, key_padding_mask=key_padding_mask, dropout=dropout)
        return self.proj_drop(self.out_proj(join_heads(out, self.batch_first)))

    def _required(self, **inputs: Tensor | None) -> tuple[Tensor, ...]:
        for name, value in inputs.items():
            if value is None:
                raise ValueError(f"{type(self).__name__} projects positions: it needs {name}, got None")
        return tuple(value for value in inputs.values() if value is not None)


class ConditionalSelfAttention(_ConditionalAttention):
    """Attention among queries: content and position are projected apart and added.

    Args:
        embed_dim, num_heads, attn_drop, proj_drop, batch_first: as in `MultiheadAttention`.
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
        self.query_pos_proj = Linear(embed_dim, embed_dim)

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
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, N, C); `query` when None.
            value: (B, N, C); `key` when None.
            identity: (B, Q, C), what the result is added to; `query` when None.
            query_pos: (B, Q, C) or what broadcasts to it.
            key_pos: the same for the key; `query_pos` when None and there is no `key` of its own.
            attn_mask: bool, (Q, N), (B, Q, N) or (B * H, Q, N); True = not attended.
            key_padding_mask: bool, (B, N); True = not attended.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: without positions, or when a mask is not bool or its shape does not fit.
        """
        if key is None:
            key = query
            key_pos = query_pos if key_pos is None else key_pos
        value = key if value is None else value
        identity = query if identity is None else identity
        query_pos, key_pos = self._required(query_pos=query_pos, key_pos=key_pos)
        q = self._split_heads(self.query_content_proj(query) + self.query_pos_proj(query_pos))
        k = self._split_heads(self.key_content_proj(key) + self.key_pos_proj(key_pos))
        return identity + self._attend(q, k, value, attn_mask, key_padding_mask)


class ConditionalCrossAttention(_ConditionalAttention):
    """Attention to the image that compares content with content and position with position.

    In each head the content's channels and the position's stand side by side, so that a logit is the sum of two
    products, (content q, content k) and (position q, position k), over the square root of 2 C / H. The position of
    a query is `query_sine_embed`, a sine embedding of where it looks.

    Args:
        embed_dim, num_heads, attn_drop, proj_drop, batch_first: as in `MultiheadAttention`.
        add_query_pos: add positions to contents too, `query_pos` to those of queries. Conditional DETR and DAB-DETR do
            so in the first decoder layer, where queries have no content yet. Has one more projection then.
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
        self.query_pos_proj = Linear(embed_dim, embed_dim) if add_query_pos else None
        self.query_pos_sine_proj = Linear(embed_dim, embed_dim)

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
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, N, C); `query` when None.
            value: (B, N, C); `key` when None.
            identity: (B, Q, C), what the result is added to; `query` when None.
            query_pos: (B, Q, C) or what broadcasts to it; used with `add_query_pos` only.
            key_pos: (B, N, C) or what broadcasts to it.
            attn_mask: bool, (Q, N), (B, Q, N) or (B * H, Q, N); True = not attended.
            key_padding_mask: bool, (B, N); True = not attended.
            query_sine_embed: (B, Q, C) or what broadcasts to it, compared with `key_pos`.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: without positions, or when a mask is not bool or its shape does not fit.
        """
        key = query if key is None else key
        value = key if value is None else value
        identity = query if identity is None else identity
        key_pos, query_sine_embed = self._required(key_pos=key_pos, query_sine_embed=query_sine_embed)
        query_content, query_place = self.query_content_proj(query), self.query_pos_sine_proj(query_sine_embed)
        key_content, key_place = self.key_content_proj(key), self.key_pos_proj(key_pos)
        if self.query_pos_proj is not None:
            (query_pos,) = self._required(query_pos=query_pos)
            query_content = query_content + self.query_pos_proj(query_pos)
            key_content = key_content + key_place
        q, k = self._beside(query_content, query_place), self._beside(key_content, key_place)
        return identity + self._attend(q, k, value, attn_mask, key_padding_mask)

    def _beside(self, content: Tensor, place: Tensor) -> Tensor:
        """Two times (B, tokens, C) to (B, H, tokens, 2 * C / H)."""
        return torch.cat([self._split_heads(content), self._split_heads(place.expand_as(content))], dim=-1)
