"""Branches for training: further queries, made of proposals, that go through the decoder in a pass of their own.

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
    """What branches share: the proposals that heads of their own rate highest are boxes without gradients.

    The queries of a branch and those of detections do not see each other. Subclasses make their contents.

    Args:
        num_queries: of the branch.
        heads: of the branch, with heads for the encoder.
    """

    suffix = ONE_TO_MANY  # of the names of its predictions
    targets: Callable[[Targets], Targets] | None = None
    num_queries_one2many = 0  # how many of the detector's `num_queries_one2many` are the branch's

    def __init__(self, *, num_queries: int, heads: DetectionHeads):
        super().__init__()
        self.num_queries = num_queries
        self.heads = heads

    def join(self, queries: DeformableQueries | AnchorQueries | GroupedAnchorQueries, heads: DetectionHeads) -> None:
        """Become part of a detector, which calls this once.

        Args:
            queries: of detections; both begin at the same tokens.
            heads: that detections are read by.

        Raises:
            ValueError: when the queries are not made of proposals as the branch's are.
        """
        if not isinstance(queries, AnchorQueries) or not queries.as_two_stage:
            raise ValueError(
                f"{type(self).__name__} is made of proposals: it needs queries=AnchorQueries with as_two_stage=True"
            )

    def contents(self, memory: Memory, indices: Tensor, queries: AnchorQueries) -> Tensor:
        """Abstract. (B, Q, C), of the proposals of the tokens `indices`, (B, Q), best first."""
        raise NotImplementedError(f"{type(self).__name__} must implement contents")

    def forward(self, proposed: ProposalTokens, memory: Memory, queries: AnchorQueries) -> StartingQueries:
        """The branch's queries, and the proposals that they are made of, which are trained.

        Args:
            proposed: the encoder's tokens as proposals are made of them.
            memory: the encoder's result.
            queries: of detections.
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
        """What the decoder's layers say about the branch's queries.

        Args:
            queries: of the branch.
            memory: the encoder's result.
            decoder: that of detections.
            heads: that detections are read by.
        """
        return decoder(queries, memory, heads)


class HybridBranch(ProposalBranch):
    """Queries that find each object several times (Relation-DETR, Hou et al., ECCV 2024, section 3.3).

    They have learned contents, one for each rank among the proposals, and go through decoder layers without relations,
    whose heads read them.

    Args:
        num_queries: of the branch; 0 for no branch.
        num_classes: K.
        embed_dim: C.
        repeats: how often each object is to be found.
    """

    def __init__(self, *, num_queries: int, num_classes: int, embed_dim: int, repeats: int = 6):
        heads = DetectionHeads(embed_dim=embed_dim, num_classes=num_classes, num_layers=0, for_encoder=True)
        super().__init__(num_queries=num_queries, heads=heads)
        self.num_queries_one2many = num_queries
        self.content = nn.Embedding(num_queries, embed_dim)
        self.targets = functools.partial(Targets.repeated, times=repeats)
        nn.init.xavier_uniform_(self.content.weight)

    def join(self, queries: DeformableQueries | AnchorQueries | GroupedAnchorQueries, heads: DetectionHeads) -> None:
        """See `ProposalBranch.join`; queries must have no one-to-many branch."""
        super().join(queries, heads)
        if queries.num_queries_one2many:
            raise ValueError(
                f"queries.layout.num_queries_one2many={queries.num_queries_one2many} beside a hybrid branch: set it to "
                "0, or branch=None"
            )

    def contents(self, memory: Memory, indices: Tensor, queries: AnchorQueries) -> Tensor:
        """See `ProposalBranch.contents`."""
        return self.content.weight[: indices.shape[1]].expand(indices.shape[0], -1, -1)

    def decode(self, queries: Queries, memory: Memory, decoder: Decoder, heads: DetectionHeads) -> list[LayerOutput]:
        """See `ProposalBranch.decode`."""
        return decoder(queries, memory, heads, use_relation=False)


class DenseBranch(ProposalBranch):
    """More queries than those of detections, which are distinct, as these are not (DDQ, Zhang et al., CVPR 2023).

    Their contents are projected as those of the distinct queries, and heads of their own read them, but for the norm
    before the heads, which is shared (section 3.3).

    Args:
        num_queries: of detections.
        ratio: how many queries of the branch there are for each of them.
        heads: of the branch, for all layers and the encoder.
    """

    suffix = "_dense"

    def __init__(self, *, num_queries: int, heads: DetectionHeads, ratio: float = 1.5):
        super().__init__(num_queries=int(ratio * num_queries), heads=heads)

    def join(self, queries: DeformableQueries | AnchorQueries | GroupedAnchorQueries, heads: DetectionHeads) -> None:
        """See `ProposalBranch.join`; queries must have projected contents."""
        super().join(queries, heads)
        if not isinstance(queries, AnchorQueries) or queries.content_projection is None:
            raise ValueError("a dense branch needs queries.project_contents=True: its contents are projected, too")
        self.heads.norm = heads.norm

    def contents(self, memory: Memory, indices: Tensor, queries: AnchorQueries) -> Tensor:
        """See `ProposalBranch.contents`."""
        return queries.projected_contents(memory.tokens, indices)

    def decode(self, queries: Queries, memory: Memory, decoder: Decoder, heads: DetectionHeads) -> list[LayerOutput]:
        """See `ProposalBranch.decode`."""
        return decoder(queries, memory, self.heads)
