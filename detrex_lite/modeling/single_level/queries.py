"""Where the queries of a detector with one feature map begin: they are learned.

Legend: B batch, Q queries, P patterns, C channels.
"""

import torch
from torch import Tensor, nn

from ..anchors import AnchorBoxes, pair_with_patterns
from ..queries import QueryBlock
from ..query_layout import QueryLayout


class LearnedQueries(nn.Module):
    """Learned positions with contents of zero (DETR, Conditional DETR).

    Args:
        layout: how many queries there are.
        embed_dim: C.
    """

    num_patterns = 0

    def __init__(self, *, layout: QueryLayout, embed_dim: int):
        super().__init__()
        self.layout = layout
        self.embedding = nn.Embedding(layout.total, embed_dim)

    def forward(self, batch: int, *, training: bool) -> list[QueryBlock]:
        """The blocks of queries for B images; `training` is whether there are queries that exist in training only."""
        position = self.layout.present(self.embedding.weight, training=training).expand(batch, -1, -1)
        return self.layout.blocks(torch.zeros_like(position), None, position, training=training)


class LearnedAnchors(nn.Module):
    """Learned boxes with contents of zero, or with learned patterns (DAB-DETR, Liu et al., ICLR 2022, section 4).

    Args:
        layout: how many queries there are, without patterns.
        embed_dim: C.
        centers: where boxes begin, see `AnchorBoxes`.
        num_patterns: P learned contents, each of which is paired with each box; 0 for a single one, which is zero.
        normal_init: patterns begin normally distributed, as in the paper's repository, and not Xavier-uniformly, as in
            detrex.

    Raises:
        ValueError: for patterns together with groups or a one-to-many branch.
    """

    def __init__(
        self,
        *,
        layout: QueryLayout,
        embed_dim: int,
        centers: str = "random",
        num_patterns: int = 0,
        normal_init: bool = False,
    ):
        super().__init__()
        if num_patterns and layout.total != layout.num_queries:
            raise ValueError(f"num_patterns={num_patterns} cannot be combined with groups or a one-to-many branch")
        self.layout = layout
        self.embed_dim = embed_dim
        self.num_patterns = num_patterns
        self.boxes = AnchorBoxes(layout.total, centers)
        self.patterns = nn.Embedding(num_patterns, embed_dim) if num_patterns else None
        if self.patterns is not None and not normal_init:  # nn.Embedding begins so
            nn.init.xavier_uniform_(self.patterns.weight)

    def forward(self, batch: int, *, training: bool, content: Tensor | None = None) -> list[QueryBlock]:
        """The blocks of queries for B images.

        Args:
            batch: B.
            training: whether there are queries that exist in training only.
            content: (C,), what all queries hold, added to their patterns if there are any; None for zeros.
        """
        boxes = self.layout.present(self.boxes(), training=training)
        if self.patterns is not None:
            contents, boxes = pair_with_patterns(self.patterns.weight, boxes)
        else:
            # Boxes are float32 at least; contents have the precision of the model.
            contents = self.boxes.weight.new_zeros(len(boxes), self.embed_dim)
        if content is not None:
            contents = contents + content
        expanded = (value.expand(batch, -1, -1) for value in (contents, boxes))
        return self.layout.blocks(*expanded, training=training)
