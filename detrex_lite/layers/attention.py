"""Multi-head attention (Vaswani et al., 2017) with positions added to query and key, and an identity connection.

Legend: B batch, Q queries, N keys, H heads, C channels, D channels per head, G groups of
n queries each.
Parameter names are those of torch.nn.MultiheadAttention. The differences: positions and the residual connection are
part of the block, batches come first by default, masks are bool only (a bias of the logits is a separate argument,
`attn_bias`), and attention weights are never materialised.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def check_num_heads(embed_dim: int, num_heads: int) -> None:
    """Raise a ValueError when `embed_dim` is not a multiple of `num_heads`."""
    if embed_dim % num_heads != 0:
        raise ValueError(f"embed_dim={embed_dim} is not a multiple of num_heads={num_heads}")


def check_padding(key_padding_mask: Tensor, shape: tuple[int, int]) -> None:
    """Raise a ValueError when the padding mask of the keys is not bool or does not have the expected shape, (B, N)."""
    _require_bool("key_padding_mask", key_padding_mask)
    if key_padding_mask.shape != shape:
        raise ValueError(f"key_padding_mask has shape {tuple(key_padding_mask.shape)}; expected (B, N) = {shape}")


def split_heads(x: Tensor, num_heads: int, batch_first: bool = True) -> Tensor:
    """Reshape (B, tokens, C), or (tokens, B, C) without `batch_first`, to (B, H, tokens, C / H)."""
    x = x.unflatten(-1, (num_heads, -1))
    return x.transpose(1, 2) if batch_first else x.permute(1, 2, 0, 3)


def join_heads(x: Tensor, batch_first: bool = True) -> Tensor:
    """Invert `split_heads`."""
    x = x.transpose(1, 2) if batch_first else x.permute(2, 0, 1, 3)
    return x.flatten(2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attn_bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Compute `softmax(q k / sqrt(D) + attn_bias) v` for each head.

    Args:
        q: (B, H, Q, D).
        k: (B, H, N, D).
        v: (B, H, N, E).
        attn_mask: bool, (Q, N), (B, Q, N) or (B * H, Q, N); True = not attended.
        key_padding_mask: bool, (B, N); True = not attended.
        attn_bias: floating point, added to the logits: (Q, N), (B, Q, N), or anything that broadcasts to (B, H, Q, N).
            It is cast to the dtype of `q`, and gradients flow into it. Masks apply on top of the bias.
        dropout: probability that an attention weight is dropped.

    Returns:
        (B, H, Q, E).

    Raises:
        ValueError: when a mask is not bool, the bias is not floating point, or a mask or bias has the wrong shape.
    """
    blocked = _merge_masks(attn_mask, key_padding_mask, q, k)
    if attn_bias is None:
        mask = None if blocked is None else ~blocked  # scaled_dot_product_attention has True = attended
    else:
        mask = _fit_bias(attn_bias, q, k)
        mask = mask if blocked is None else mask.masked_fill(blocked, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


class BaseAttention(nn.Module):
    """Base class of attention blocks with an identity connection; subclasses compute queries, keys and values.

    The `__init__` of a subclass creates the projections and then calls `reset_parameters`, which the subclass extends.

    Args:
        embed_dim: C, of queries, keys, values and the result.
        num_heads: H; must divide `embed_dim`.
        attn_drop: dropout probability of the attention weights, in training.
        proj_drop: dropout probability of the result before the identity is added, in training.
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
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def reset_parameters(self) -> None:
        """Draw Xavier-uniform weights for all projections, as in the papers' repositories, and zero the output bias."""
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def split_heads(self, x: Tensor) -> Tensor:
        """Reshape (B, tokens, C) to (B, H, tokens, C / H)."""
        return split_heads(x, self.num_heads, self.batch_first)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        attn_bias: Tensor | None,
        num_groups: int = 1,
    ) -> Tensor:
        """Attend, join the heads and project.

        Args:
            q, k, v, attn_mask, key_padding_mask, attn_bias: see the function `attend`.
            num_groups: above 1, each group of queries attends within itself; see `MultiheadAttention.forward`.

        Returns:
            The residual that is added to the identity, (B, Q, C).
        """
        if num_groups > 1:
            if key_padding_mask is not None:
                check_padding(key_padding_mask, (k.shape[0], k.shape[2]))
                key_padding_mask = key_padding_mask.unflatten(1, (num_groups, -1)).flatten(0, 1)
            q, k, v = (_fold_groups(x, num_groups) for x in (q, k, v))
        out = self.attend_heads(q, k, v, attn_mask, key_padding_mask, attn_bias)
        if num_groups > 1:
            out = _unfold_groups(out, num_groups)
        return self.proj_drop(self.out_proj(join_heads(out, self.batch_first)))

    def attend_heads(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        attn_bias: Tensor | None,
    ) -> Tensor:
        """Call the function `attend` with this block's dropout. Returns (B, H, Q, E)."""
        return attend(
            q,
            k,
            v,
            attn_mask=attn_mask,
            key_padding_mask=key_padding_mask,
            attn_bias=attn_bias,
            dropout=self.attn_drop if self.training else 0.0,
        )

    def check_groups(self, num_groups: int, query: Tensor, key: Tensor) -> None:
        """Raise a ValueError when `num_groups` does not fit the other inputs of a self-attention."""
        if num_groups == 1:
            return
        if num_groups < 1:
            raise ValueError(f"num_groups={num_groups} is below 1")
        if key is not query:
            raise ValueError(f"num_groups={num_groups} is for self-attention: the key must be the query")
        num_queries = query.shape[1 if self.batch_first else 0]
        if num_queries % num_groups != 0:
            raise ValueError(f"{num_queries} queries cannot be divided into num_groups={num_groups} of equal size")


class MultiheadAttention(BaseAttention):
    """`identity + dropout(attention(query + query_pos, key + key_pos, value))`.

    Args:
        embed_dim, num_heads, attn_drop, proj_drop, batch_first: see `BaseAttention`.
    """

    _linear: Callable[..., Tensor] = staticmethod(F.linear)  # computes the packed projection

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        batch_first: bool = True,
    ):
        super().__init__(embed_dim, num_heads, attn_drop, proj_drop, batch_first)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * embed_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier-uniform weights, treating the packed projection as one matrix, and set biases to zero.

        DETR's repository initialises in this way; torch.nn.MultiheadAttention draws `out_proj.weight` differently.
        """
        super().reset_parameters()
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)

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
            value: (B, N, C), to which no position is added; `key` when None.
            identity: (B, Q, C), to which the result is added; `query` when None.
            query_pos: added to the query; broadcastable to (B, Q, C).
            key_pos: added to the key; `query_pos` when both `key_pos` and `key` are None.
            attn_mask: bool, (Q, N), (B, Q, N) or (B * H, Q, N); True = not attended.
            key_padding_mask: bool, (B, N); True = not attended.
            attn_bias: floating point, added to the logits: (Q, N), (B, Q, N), or broadcastable to (B, H, Q, N).
            num_groups: G; for self-attention only. The queries are G consecutive groups of n queries each. A query
                attends only to its group, as with a block-diagonal mask, but at 1 / G of the cost (Group DETR, Chen
                et al., ICCV 2023). With G > 1, `attn_mask` is (n, n), (B * G, n, n) or (B * G * H, n, n), and
                `attn_bias` is (n, n), (B * G, n, n), or broadcastable to (B * G, H, n, n). The groups of an image are
                consecutive along the first dimension.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: when a mask is not bool, the bias is not floating point, a mask or bias has the wrong shape, or
                `num_groups` does not divide Q or is used with a key that is not the query.
        """
        if key is None:
            key = query
            key_pos = query_pos if key_pos is None else key_pos
        value = key if value is None else value
        identity = query if identity is None else identity
        self.check_groups(num_groups, query, key)
        q, k, v = self._project(query, key, value, query_pos, key_pos)
        return identity + self.attend(q, k, v, attn_mask, key_padding_mask, attn_bias, num_groups)

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor, query_pos: Tensor | None, key_pos: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project to q, k and v of shape (B, H, tokens, C / H), with as few matrix products as possible."""
        channels, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        same_query_and_key = query is key and query_pos is key_pos
        query = query if query_pos is None else query + query_pos
        if same_query_and_key:
            q, k = self._linear(query, weight[: 2 * channels], bias[: 2 * channels]).chunk(2, dim=-1)
        else:
            key = key if key_pos is None else key + key_pos
            q = self._linear(query, weight[:channels], bias[:channels])
            k = self._linear(key, weight[channels : 2 * channels], bias[channels : 2 * channels])
        v = self._linear(value, weight[2 * channels :], bias[2 * channels :])
        return self.split_heads(q), self.split_heads(k), self.split_heads(v)


def _fold_groups(x: Tensor, num_groups: int) -> Tensor:
    """Reshape (B, H, G * n, D) to (B * G, H, n, D)."""
    groups = x.unflatten(2, (num_groups, x.shape[2] // num_groups))
    return groups.transpose(1, 2).flatten(0, 1)


def _unfold_groups(x: Tensor, num_groups: int) -> Tensor:
    """Invert `_fold_groups`."""
    groups = x.unflatten(0, (x.shape[0] // num_groups, num_groups))
    return groups.transpose(1, 2).flatten(2, 3)


def _merge_masks(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """Combine both masks into one that broadcasts to (B, H, Q, N), True = not attended; None without any mask."""
    (batch, heads, queries, _), keys = q.shape, k.shape[2]
    blocked = None
    if attn_mask is not None:
        _require_bool("attn_mask", attn_mask)
        if attn_mask.shape == (queries, keys):
            blocked = attn_mask
        elif attn_mask.shape == (batch, queries, keys):
            blocked = attn_mask[:, None]
        elif attn_mask.shape == (batch * heads, queries, keys):
            blocked = attn_mask.unflatten(0, (batch, heads))
        else:
            raise ValueError(
                f"attn_mask has shape {tuple(attn_mask.shape)}; expected (Q, N) = {(queries, keys)}, "
                f"(B, Q, N) = {(batch, queries, keys)} or (B * H, Q, N) = {(batch * heads, queries, keys)}"
            )
    if key_padding_mask is not None:
        check_padding(key_padding_mask, (batch, keys))
        padding = key_padding_mask[:, None, None, :]
        blocked = padding if blocked is None else blocked | padding
    return blocked


def _fit_bias(attn_bias: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Reshape the bias to four dimensions that broadcast to (B, H, Q, N), and cast it to the dtype of `q`."""
    if not attn_bias.is_floating_point():
        raise ValueError(
            f"attn_bias is added to the logits and must be floating point, got {attn_bias.dtype}; "
            "a bool mask (True = not attended) goes into attn_mask"
        )
    (batch, heads, queries, _), keys = q.shape, k.shape[2]
    shape = tuple(attn_bias.shape)
    bias = attn_bias[:, None] if attn_bias.dim() == 3 else attn_bias[(None,) * (4 - attn_bias.dim())]
    full = (batch, heads, queries, keys)
    if bias.dim() != 4 or any(size not in (1, expected) for size, expected in zip(bias.shape, full, strict=True)):
        raise ValueError(
            f"attn_bias has shape {shape}; expected (Q, N) = {(queries, keys)}, (B, Q, N) = {(batch, queries, keys)}, "
            f"or a shape that broadcasts to (B, H, Q, N) = {full}"
        )
    return bias.to(q.dtype)


def _require_bool(name: str, mask: Tensor) -> None:
    # Other libraries add a float mask to the logits, even one of 0 and 1: an error is safer than a guess.
    if mask.dtype != torch.bool:
        hint = "; pass values to add to the logits as attn_bias" if name == "attn_mask" else ""
        raise ValueError(f"{name} must be bool (True = not attended), got {mask.dtype}{hint}")
