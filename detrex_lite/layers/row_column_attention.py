"""Attention to the cells of a map along its rows and its columns (Anchor DETR, Wang et al., AAAI 2022, section 3.4).

Legend: B batch, Q queries, h x w cells of the map, N = h * w, H heads, C channels, D channels per head.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import BaseAttention, check_padding, join_heads, split_heads


class TokenGrid(NamedTuple):
    """The map whose cells are tokens, row by row.

    Attributes:
        height: h, of the padded map.
        width: w.
        as_published: how modules treat the padding; see `ImageBatch`.
    """

    height: int
    width: int
    as_published: bool = False


class RowColumnDecoupledAttention(BaseAttention):
    """`identity + dropout(attention)`, where each weight is the product of a row weight and a column weight.

    A query has one vector that is compared with the mean of each column, and one that is compared with the mean of each
    row:

        A_x = softmax(q_x k_x / sqrt(D)) over the w columns,  k_x = mean over rows of W_kx (key + position of x)
        A_y = softmax(q_y k_y / sqrt(D)) over the h rows,     k_y = mean over columns of W_ky (key + position of y)
        out = sum over y of A_y (sum over x of A_x v)

    A query has w + h weights instead of N. Neither (Q, N) weights nor keys of all cells are materialised: keys are
    averaged before they are projected, which gives the same result. The largest tensor is the partial sum along the
    longer side of the map, (B, H, Q, D) for each cell of the shorter side.

    The product of the two softmaxes equals one softmax of q_x k_x + q_y k_y over all cells. The published code calls
    the direction along x "row", since it runs through a row of cells; the packed projection has q_x, q_y, k_x, k_y and
    v in this order.

    Args:
        embed_dim, num_heads, proj_drop: see `BaseAttention`.
        attn_drop: dropout probability of the row weights and the column weights, in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, attn_drop: float = 0.0, proj_drop: float = 0.0):
        super().__init__(embed_dim, num_heads, attn_drop, proj_drop)
        self.in_proj_weight = nn.Parameter(torch.empty(5 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.empty(5 * embed_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier-uniform weights, treating the packed projection as one matrix, and set biases to zero."""
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
        grid: TokenGrid,
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, N, C), cells row by row; `query` when None.
            value: (B, N, C), to which no position is added; `key` when None.
            identity: (B, Q, C), to which the result is added; `query` when None.
            query_pos: added to the query. It broadcasts to (B, Q, C), the same for both directions, or to (B, Q, 2 C),
                the position of x followed by that of y.
            key_pos: the same for the key; `query_pos` when both `key_pos` and `key` are None.
            attn_mask: must be None, because single cells cannot be masked.
            key_padding_mask: bool, (B, N), True = padding, which is at the right and the bottom of the map.
            grid: the shape of the map in `key`. Means of keys include padded cells only with `as_published`.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: for an `attn_mask`; when the number of keys is not N, positions have the wrong number of
                channels, or the padding mask is not bool or has the wrong shape.
        """
        if key is None:
            key = query
            key_pos = query_pos if key_pos is None else key_pos
        value = key if value is None else value
        identity = query if identity is None else identity
        self._check(key, attn_mask, key_padding_mask, grid)
        shape = (grid.height, grid.width)
        padding = None if key_padding_mask is None else key_padding_mask.unflatten(1, shape)
        inside = None if padding is None or grid.as_published else ~padding[..., None]
        query_pos_x, query_pos_y = self._positions_by_axis("query_pos", query_pos)
        key_pos_x, key_pos_y = self._positions_by_axis("key_pos", key_pos)
        along_x = self._weights(
            self._project(0, query if query_pos_x is None else query + query_pos_x),
            self._project(2, _mean(key, key_pos_x, inside, shape, over=1)),
            None if padding is None else padding[:, 0],
        )
        along_y = self._weights(
            self._project(1, query if query_pos_y is None else query + query_pos_y),
            self._project(3, _mean(key, key_pos_y, inside, shape, over=2)),
            None if padding is None else padding[:, :, 0],
        )
        # A compiled graph is used for maps of all shapes, so it has the order that suits wide maps.
        columns_last = not torch.compiler.is_compiling() and grid.height > grid.width
        values = self._project(4, value).unflatten(2, shape)  # (B, H, h, w, D)
        if columns_last:
            out = _weighted_sum(along_y, along_x, values)
        else:
            out = _weighted_sum(along_x, along_y, values.transpose(2, 3))
        return identity + self.proj_drop(self.out_proj(join_heads(out)))

    def _check(self, key: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None, grid: TokenGrid) -> None:
        if attn_mask is not None:
            raise ValueError(
                "RowColumnDecoupledAttention cannot have an attn_mask: it weights rows and columns, not single cells"
            )
        if key.shape[1] != grid.height * grid.width:
            raise ValueError(f"got {key.shape[1]} keys for a grid of {grid.height} x {grid.width} cells")
        if key_padding_mask is not None:
            check_padding(key_padding_mask, (key.shape[0], key.shape[1]))

    def _positions_by_axis(self, name: str, pos: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Split positions into those of x and of y, (B, tokens, C) each."""
        if pos is None or pos.shape[-1] == self.embed_dim:
            return pos, pos
        if pos.shape[-1] == 2 * self.embed_dim:
            along_x, along_y = pos.chunk(2, dim=-1)
            return along_x, along_y
        raise ValueError(
            f"{name} has {pos.shape[-1]} channels; expected C = {self.embed_dim}, or 2 C = {2 * self.embed_dim} for "
            "positions of x and of y"
        )

    def _project(self, index: int, x: Tensor) -> Tensor:
        """Apply one of the packed projections: (B, tokens, C) to (B, H, tokens, D)."""
        part = slice(index * self.embed_dim, (index + 1) * self.embed_dim)
        return split_heads(F.linear(x, self.in_proj_weight[part], self.in_proj_bias[part]), self.num_heads)

    def _weights(self, q: Tensor, k: Tensor, padding: Tensor | None) -> Tensor:
        """q: (B, H, Q, D); k: (B, H, n, D) of n rows or columns; padding: (B, n). Returns (B, H, Q, n)."""
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if padding is not None:
            logits = logits.masked_fill(padding[:, None, None], float("-inf"))
        return F.dropout(logits.softmax(-1), self.attn_drop, self.training)


def _mean(key: Tensor, pos: Tensor | None, inside: Tensor | None, shape: tuple[int, int], *, over: int) -> Tensor:
    """Average `key + pos` over rows (`over` = 1) or columns (2).

    Only cells `inside` are counted, (B, h, w, 1) bool; None counts all.

    Returns:
        (B, w, C) or (B, h, C).
    """
    mean = _mean_of_cells(key.unflatten(1, shape), inside, over)
    return mean if pos is None else mean + _mean_of_cells(pos.unflatten(1, shape), inside, over)


def _mean_of_cells(cells: Tensor, inside: Tensor | None, over: int) -> Tensor:
    if inside is None:
        return cells.mean(over)
    # Rows and columns without any cell of the image are never attended to.
    return cells.masked_fill(~inside, 0).sum(over) / inside.sum(over).clamp(min=1)


def _weighted_sum(first: Tensor, second: Tensor, values: Tensor) -> Tensor:
    """Sum along one side of the map, then along the other.

    Args:
        first: (B, H, Q, m), weights along the side that is summed first.
        second: (B, H, Q, n), along the other.
        values: (B, H, m, n, D).

    Returns:
        (B, H, Q, D).
    """
    partial = (first @ values.flatten(3)).unflatten(-1, values.shape[3:])  # (B, H, Q, n, D)
    return (second[..., None, :] @ partial).squeeze(-2)
