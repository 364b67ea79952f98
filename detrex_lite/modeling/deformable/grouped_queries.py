"""Groups of queries with separate proposals.

Source: Group DETR (Chen et al., ICCV 2023) with two stages, as in LW-DETR (Chen et al., 2024).

Legend: B batch, N tokens of all levels, Q queries, C channels, G groups, R proposals of a group.
"""

from torch import nn

from ..decoder import Memory
from ..heads import DetectionHeads
from ..predictions import LayerOutput, Predictions
from ..query_layout import QueryLayout
from .proposals import EncoderProposals, best_proposals, taken_padding
from .queries import StartingQueries


class GroupedAnchorQueries(nn.Module):
    """Boxes proposed by the encoder and adjusted by learned offsets for each rank, with learned contents.

    In training, each group of queries has its own projection of the tokens and pair of proposal heads, all of which are
    trained. Evaluation uses only the first group. (`AnchorQueries` makes all groups of the same proposals.)

    The decoder gets the boxes without gradients of the proposals. The learned offsets are encoded as the output of a
    box head.
    Args:
        layout: number of queries and groups; without a one-to-many branch.
        embed_dim: C.

    Raises:
        ValueError: for a layout with a one-to-many branch.
    """

    as_two_stage = True
    num_queries_one2many = 0

    def __init__(self, *, layout: QueryLayout, embed_dim: int):
        super().__init__()
        if layout.num_queries_one2many:
            raise ValueError(
                f"num_queries_one2many={layout.num_queries_one2many}: GroupedAnchorQueries has no one-to-many branch; "
                "set it to 0, or use AnchorQueries"
            )
        self.layout = layout
        self.encoder_groups = layout.num_groups
        self.content = nn.Embedding(layout.total, embed_dim)
        self.box_offsets = nn.Embedding(layout.total, 4)
        self.proposals = EncoderProposals(embed_dim)
        self.group_proposals = nn.ModuleDict(
            {str(group): EncoderProposals(embed_dim) for group in range(1, layout.num_groups)}
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set learned offsets to zero, and draw normally distributed contents."""
        nn.init.normal_(self.content.weight)
        nn.init.zeros_(self.box_offsets.weight)

    def forward(self, memory: Memory, heads: DetectionHeads, *, training: bool) -> StartingQueries:
        """Make the initial queries of the decoder.

        Args:
            memory: the encoder's output.
            heads: with heads for the encoder, a pair for each group.
            training: whether all groups are used, or only the first.

        Returns:
            The matching queries and, in training, the proposals that they are made of.
        """
        levels = memory.require_levels()
        chosen = []
        for group in range(self.layout.num_groups if training else 1):
            proposals = self.group_proposals[str(group)] if group else self.proposals
            output, best = best_proposals(proposals(memory), self.layout.num_queries, memory, heads, group=group)
            chosen.append(output)
        # The same for all groups, and None in training.
        padding, in_group = taken_padding(best, levels), best.shape[1]
        output = LayerOutput.joined(chosen)
        content, offsets = (
            self.layout.of_ranks(learned.weight, in_group, training=training).expand(output.boxes.shape[0], -1, -1)
            for learned in (self.content, self.box_offsets)
        )
        reference = heads.boxes(offsets, output.boxes.detach())
        blocks = self.layout.blocks(content, reference, training=training, num_proposals=in_group, padding=padding)
        groups = self.layout.num_groups
        return StartingQueries(blocks, Predictions.of(output, num_groups=groups, repeats=groups) if training else None)
