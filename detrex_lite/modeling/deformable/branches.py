"""Training-only branches: further queries, made of proposals, in a separate decoder pass.

Legend: B batch, Q queries of the branch, C channels.
"""

import functools
from collections.abc import Callable

from torch import Tensor, nn

from ..decoder import Decoder, Memory
from ..heads import DetectionHeads
from ..predictions import LayerOutput, Predictions
from ..queries import Queries, QueryBlock
from ..query_layout import ONE_TO_MANY
from ..targets import Targets
from .grouped_queries import GroupedAnchorQueries
from .proposals import ProposalTokens, best_proposals, taken_padding
from .queries import AnchorQueries, DeformableQueries, StartingQueries


class ProposalBranch(nn.Module):
    """Base class of branches, whose boxes are the proposals that the branch's heads score highest, without gradients.

    The queries of a branch and the matching queries do not attend to each other. Subclasses compute the contents.

    Args:
        num_queries: number of queries of the branch.
        heads: heads of the branch, with heads for the encoder.
    """

    suffix = ONE_TO_MANY  # suffix of the names of its predictions
    targets: Callable[[Targets], Targets] | None = None
    num_queries_one2many = 0  # how many of the detector's `num_queries_one2many` belong to the branch

    def __init__(self, *, num_queries: int, heads: DetectionHeads):
        super().__init__()
        self.num_queries = num_queries
        self.heads = heads

    def join(self, queries: DeformableQueries | AnchorQueries | GroupedAnchorQueries, heads: DetectionHeads) -> None:
        """Attach the branch to a detector, which calls this once.

        Args:
            queries: the source of the matching queries, which use the same encoder tokens.
            heads: the heads of the detections.

        Raises:
            ValueError: when the matching queries are not made of proposals, as those of the branch are.
        """
        if not isinstance(queries, AnchorQueries) or not queries.as_two_stage:
            raise ValueError(
                f"{type(self).__name__} uses proposals: it needs queries=AnchorQueries with as_two_stage=True"
            )

    def contents(self, memory: Memory, indices: Tensor, queries: AnchorQueries) -> Tensor:
        """Abstract. Compute the contents, (B, Q, C), of the proposals with token indices (B, Q), best first."""
        raise NotImplementedError(f"{type(self).__name__} must implement contents")

    def forward(self, proposed: ProposalTokens, memory: Memory, queries: AnchorQueries) -> StartingQueries:
        """Make the queries of the branch, together with the proposals that they are made of, for the loss.

        Args:
            proposed: the encoder's tokens, projected for proposals.
            memory: the encoder's output.
            queries: the source of the matching queries.
        """
        chosen, best = best_proposals(proposed, self.num_queries, memory, self.heads)
        block = QueryBlock(
            self.suffix,
            self.contents(memory, best, queries),
            chosen.boxes.detach(),
            targets=self.targets,
            padding=taken_padding(best, memory.require_levels()),
        )
        return StartingQueries([block], Predictions.of(chosen, targets=self.targets))

    def decode(self, queries: Queries, memory: Memory, decoder: Decoder, heads: DetectionHeads) -> list[LayerOutput]:
        """Decode the queries of the branch.

        Args:
            queries: the queries of the branch.
            memory: the encoder's output.
            decoder: the decoder of the detections.
            heads: the heads of the detections.
        """
        return decoder(queries, memory, heads)


class HybridBranch(ProposalBranch):
    """A one-to-many branch, which detects each object several times (Relation-DETR, Hou et al., ECCV 2024, 3.3).

    Its contents are learned, one for each rank among the proposals. Decoder layers run without relations, and the heads
    of the branch read them.

    Args:
        num_queries: number of queries of the branch; 0 for no branch.
        num_classes: K.
        embed_dim: C.
        repeats: how often each object is matched.
    """

    def __init__(self, *, num_queries: int, num_classes: int, embed_dim: int, repeats: int = 6):
        heads = DetectionHeads(embed_dim=embed_dim, num_classes=num_classes, num_layers=0, for_encoder=True)
        super().__init__(num_queries=num_queries, heads=heads)
        self.num_queries_one2many = num_queries
        self.content = nn.Embedding(num_queries, embed_dim)
        self.targets = functools.partial(Targets.repeated, times=repeats)
        nn.init.xavier_uniform_(self.content.weight)

    def join(self, queries: DeformableQueries | AnchorQueries | GroupedAnchorQueries, heads: DetectionHeads) -> None:
        """See `ProposalBranch.join`; the queries must not have a one-to-many branch."""
        super().join(queries, heads)
        if queries.num_queries_one2many:
            raise ValueError(
                f"queries.layout.num_queries_one2many={queries.num_queries_one2many} conflicts with a hybrid branch: "
                "set it to 0, or branch=None"
            )

    def contents(self, memory: Memory, indices: Tensor, queries: AnchorQueries) -> Tensor:
        """See `ProposalBranch.contents`."""
        return self.content.weight[: indices.shape[1]].expand(indices.shape[0], -1, -1)

    def decode(self, queries: Queries, memory: Memory, decoder: Decoder, heads: DetectionHeads) -> list[LayerOutput]:
        """See `ProposalBranch.decode`."""
        return decoder(queries, memory, heads, use_relation=False)


class DenseBranch(ProposalBranch):
    """Dense queries, more than the distinct matching queries (DDQ, Zhang et al., CVPR 2023).

    Their contents are projected as those of the distinct queries. They have separate heads, except for the norm before
    the heads, which is shared (section 3.3).

    Args:
        num_queries: number of matching queries.
        ratio: number of dense queries per matching query.
        heads: heads of the branch, for all layers and the encoder.
    """

    suffix = "_dense"

    def __init__(self, *, num_queries: int, heads: DetectionHeads, ratio: float = 1.5):
        super().__init__(num_queries=int(ratio * num_queries), heads=heads)

    def join(self, queries: DeformableQueries | AnchorQueries | GroupedAnchorQueries, heads: DetectionHeads) -> None:
        """See `ProposalBranch.join`; the queries must have projected contents."""
        super().join(queries, heads)
        if not isinstance(queries, AnchorQueries) or queries.content_projection is None:
            raise ValueError("a dense branch needs queries.project_contents=True, because its contents are projected")
        self.heads.norm = heads.norm

    def contents(self, memory: Memory, indices: Tensor, queries: AnchorQueries) -> Tensor:
        """See `ProposalBranch.contents`."""
        return queries.projected_contents(memory.tokens, indices)

    def decode(self, queries: Queries, memory: Memory, decoder: Decoder, heads: DetectionHeads) -> list[LayerOutput]:
        """See `ProposalBranch.decode`."""
        return decoder(queries, memory, self.heads)
