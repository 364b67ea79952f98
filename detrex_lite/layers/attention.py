"""Multi-head attention (Vaswani et al., 2017) with positions added to query and key, and an identity connection.

Legend: B batch, Q queries, N keys, H heads, C channels.
What differs from torch.nn.MultiheadAttention, whose parameter names it keeps: positions and the residual
connection are inside, batches come first by default, masks are bool only, and attention weights are never built.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.linear import linear
from .dropout import Dropout
from .linear import Linear


def check_num_heads(embed_dim: int, num_heads: int) -> None:
    """ValueError when `embed_dim` is not a multiple of `num_heads`."""
    if embed_dim % num_heads != 0:
        raise ValueError(f"embed_dim={embed_dim} is not a multiple of num_heads={num_heads}")


def split_heads(x: Tensor, num_heads: int, batch_first: bool = True) -> Tensor:
    """(B, tokens, C), or (tokens, B, C) without `batch_first`, to (B, H, tokens, C / H)."""
    x = x.unflatten(-1, (num_heads, -1))
    return x.transpose(1, 2) if batch_first else x.permute(1, 2, 0, 3)


def join_heads(x: Tensor, batch_first: bool = True) -> Tensor:
    """The inverse of `split_heads`."""
    x = x.transpose(1, 2) if batch_first else x.permute(2, 0, 1, 3)
    return x.flatten(2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`softmax(q k / sqrt(D)) v` for each head.

    Args:
        q: (B, H, Q, D).
        k: (B, H, N, D).
        v: (B, H, N, E).
        attn_mask: bool, (Q, N), (B, Q, N) or (B * H, Q, N); True = not attended.
        key_padding_mask: bool, (B, N); True = not attended.
        dropout: probability that an attention weight is dropped.

    Returns:
        (B, H, Q, E).

    Raises:
        ValueError: when a mask is not bool or its shape does not fit.
    """
    mask, width = _merge_masks(attn_mask, key_padding_mask, q, k), v.shape[-1]
    if width < q.shape[-1] and q.device.type == "cpu":
        # The CPU's kernel that does not build the weights wants D = E: 0.4 of the time, 0.7 with gradients.
        v = F.pad(v, (0, q.shape[-1] - width))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)[..., :width]


class BaseAttention(nn.Module):
    """What attentions with an identity connection share: everything but how queries, keys and values are made.

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
        self.add_projections(embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)
        self.proj_drop = Dropout(proj_drop)
        self.reset_parameters()

    def add_projections(self, embed_dim: int) -> None:
        """What subclasses write: make the layers before attention."""
        raise NotImplementedError(f"{type(self).__name__} must write add_projections")

    def reset_parameters(self) -> None:
        """Set initial values, where they are not those that the layers have by themselves."""

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, tokens, C) to (B, H, tokens, C / H)."""
        return split_heads(x, self.num_heads, self.batch_first)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
    ) -> Tensor:
        """From heads, see the function `attend`, to what is added to the identity, (B, Q, C)."""
        dropout = self.attn_drop if self.training else 0.0
        out = attend(q, k, v, attn_mask=attn_mask, key_padding_mask=key_padding_mask, dropout=dropout)
        return self.proj_drop(self.out_proj(join_heads(out, self.batch_first)))


class MultiheadAttention(BaseAttention):
    """`identity + dropout(attention(query + query_pos, key + key_pos, value))`.

    Args:
        embed_dim, num_heads, attn_drop, proj_drop, batch_first: see `BaseAttention`.
    """

    def add_projections(self, embed_dim: int) -> None:
        """See `BaseAttention.add_projections`: all three in one."""
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))

    def reset_parameters(self) -> None:
        """Xavier-uniform weights over the packed projection and zero biases, as torch.nn.MultiheadAttention."""
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)
        self.out_proj.reset_parameters()
        nn.init.zeros_(self.out_proj.bias)

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
            value: (B, N, C), never given a position; `key` when None.
            identity: (B, Q, C), what the result is added to; `query` when None.
            query_pos: (B, Q, C) or what broadcasts to it, added to the query.
            key_pos: the same for the key; `query_pos` when None and there is no `key` of its own.
            attn_mask: bool, (Q, N), (B, Q, N) or (B * H, Q, N); True = not attended.
            key_padding_mask: bool, (B, N); True = not attended.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: when a mask is not bool or its shape does not fit.
        """
        if key is None:
            key = query
            key_pos = query_pos if key_pos is None else key_pos
        value = key if value is None else value
        identity = query if identity is None else identity
        q, k, v = self._project(query, key, value, query_pos, key_pos)
        return identity + self.attend(q, k, v, attn_mask, key_padding_mask)

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor, query_pos: Tensor | None, key_pos: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project and split into heads: three tensors (B, H, tokens, C / H), with as few products as possible."""
        channels, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        same_query_and_key = query is key and query_pos is key_pos
        query = query if query_pos is None else query + query_pos
        if same_query_and_key:
            q, k = linear(query, weight[: 2 * channels], bias[: 2 * channels]).chunk(2, dim=-1)
        else:
            key = key if key_pos is None else key + key_pos
            q = linear(query, weight[:channels], bias[:channels])
            k = linear(key, weight[channels : 2 * channels], bias[channels : 2 * channels])
        v = linear(value, weight[2 * channels :], bias[2 * channels :])
        return self.split_heads(q), self.split_heads(k), self.split_heads(v)


def _merge_masks(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """Both masks as one that scaled_dot_product_attention takes (there True = attended), or None."""
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
        _require_bool("key_padding_mask", key_padding_mask)
        if key_padding_mask.shape != (batch, keys):
            raise ValueError(
                f"key_padding_mask has shape {tuple(key_padding_mask.shape)}; expected (B, N) = {(batch, keys)}"
            )
        padding = key_padding_mask[:, None, None, :]
        blocked = padding if blocked is None else blocked | padding
    return None if blocked is None else ~blocked


def _require_bool(name: str, mask: Tensor) -> None:
    # A float mask that holds 0 and 1 reads as "added to the logits" elsewhere: refusing is safer than guessing.
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool (True = not attended), got {mask.dtype}")
