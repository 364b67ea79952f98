"""The self-attention that detrex trains Group DETR with, which is not the paper's.

In the paper each group of queries attends to itself alone: `ConditionalSelfAttention` with `num_groups`, as in
group_detr_r50_paper.py. In detrex, by mistake, all groups attend to each other, and what is found for query i of
group g is added to the query at i * G + g. It is here so that its losses can be reproduced. With one group, as in
evaluation, both are the same.

Legend: B batch, G groups, n queries of a group, C channels.
"""

from torch import Tensor

from detrex_lite.layers import ConditionalSelfAttention


class DetrexGroupSelfAttention(ConditionalSelfAttention):
    """`ConditionalSelfAttention` whose groups see each other, with results in another order than the queries."""

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
    """(B, G * n, C), group after group, to (B, n * G, C), the first queries of all groups, then the second ones, .."""
    return values if num_groups == 1 else values.unflatten(1, (num_groups, -1)).transpose(1, 2).flatten(1, 2)
