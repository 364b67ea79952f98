"""The self-attention with which detrex trains Group DETR; the paper's is different.

In the paper each group of queries attends only to itself: `ConditionalSelfAttention` with `num_groups`, as in
group_detr_r50_paper.py. In detrex, by mistake, all groups attend to each other, and the result of query i of group g is
added to the query at i * G + g. This class exists to reproduce the losses of detrex. With one group, as in evaluation,
both are the same.

Legend: B batch, G groups, n queries of a group, C channels.
"""

from torch import Tensor

from detrex_lite.layers import ConditionalSelfAttention


class DetrexGroupSelfAttention(ConditionalSelfAttention):
    """`ConditionalSelfAttention` whose groups attend to each other, with results in another order than the queries."""

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        *,
        identity: Tensor,
        query_pos: Tensor,
        key_pos: Tensor,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        num_groups: int = 1,
    ) -> Tensor:
        """See `ConditionalSelfAttention.forward`; query, identity, query_pos: (B, G * n, C), and so is the result."""
        query, query_pos = (_interleaved(value, num_groups) for value in (query, query_pos))
        return super().forward(
            query, identity=identity, query_pos=query_pos, attn_mask=attn_mask, key_padding_mask=key_padding_mask
        )


def _interleaved(values: Tensor, num_groups: int) -> Tensor:
    """From (B, G * n, C), ordered by group, to (B, n * G, C), ordered by the index of the query in its group."""
    return values if num_groups == 1 else values.unflatten(1, (num_groups, -1)).transpose(1, 2).flatten(1, 2)
