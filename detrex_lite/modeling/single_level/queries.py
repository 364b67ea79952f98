"""Learned initial queries of a detector with one feature map.

Legend: B batch, Q queries, P patterns, C channels.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...errors import did_you_mean
from ..anchors import AnchorBoxes, pair_with_patterns
from ..queries import QueryBlock
from ..query_layout import QueryLayout

POINTS = ("learned", "grid")


class LearnedQueries(nn.Module):
    """Learned positions with zero contents (DETR, Conditional DETR).

    Args:
        layout: number of queries.
        embed_dim: C.
    """

    num_patterns = 0

    def __init__(self, *, layout: QueryLayout, embed_dim: int):
        super().__init__()
        self.layout = layout
        self.embedding = nn.Embedding(layout.total, embed_dim)

    def forward(self, batch: int, *, training: bool) -> list[QueryBlock]:
        """Make the blocks of queries for B images; `training` adds the queries that exist in training only."""
        position = self.layout.present(self.embedding.weight, training=training).expand(batch, -1, -1)
        return self.layout.blocks(torch.zeros_like(position), None, position, training=training)


class LearnedAnchors(nn.Module):
    """Learned boxes with zero contents, or with learned patterns (DAB-DETR, Liu et al., ICLR 2022, section 4).

    Args:
        layout: number of queries, without patterns.
        embed_dim: C.
        centers: initial values of box centres, see `AnchorBoxes`.
        num_patterns: P learned contents, each of which is paired with each box; 0 for a single content of zeros.
        normal_init: draw patterns from a normal distribution, as the paper's repository, instead of Xavier-uniform
            values, as detrex.

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
        if self.patterns is not None and not normal_init:  # nn.Embedding draws normally distributed values
            nn.init.xavier_uniform_(self.patterns.weight)

    def forward(self, batch: int, *, training: bool, content: Tensor | None = None) -> list[QueryBlock]:
        """Make the blocks of queries for B images.

        Args:
            batch: B.
            training: whether to add the queries that exist in training only.
            content: (C,), the content of all queries, added to their patterns if there are any; None for zeros.
        """
        boxes = self.layout.present(self.boxes(), training=training)
        if self.patterns is not None:
            contents, boxes = pair_with_patterns(self.patterns.weight, boxes)
        else:
            # Boxes are in float32 at least; contents have the precision of the model.
            contents = self.boxes.weight.new_zeros(len(boxes), self.embed_dim)
        if content is not None:
            contents = contents + content
        expanded = (value.expand(batch, -1, -1) for value in (contents, boxes))
        return self.layout.blocks(*expanded, training=training)


class LearnedPoints(nn.Module):
    """Points, each of which is paired with learned contents (Anchor DETR, Wang et al., AAAI 2022, section 3.3).

    Args:
        layout: number of points.
        embed_dim: C.
        num_patterns: P learned contents, each of which is paired with each point; 0 for a single content of zeros.
        points: "learned" draws initial points uniformly over the image; "grid" fixes them at the centres of a grid.

    Raises:
        ValueError: for unknown `points`, a grid whose number of points is not a square, or patterns or a grid together
            with groups or a one-to-many branch.
    """

    def __init__(self, *, layout: QueryLayout, embed_dim: int, num_patterns: int = 3, points: str = "learned"):
        super().__init__()
        if points not in POINTS:
            raise ValueError(f"unknown points={points!r}{did_you_mean(points, POINTS)}")
        if (num_patterns or points == "grid") and layout.total != layout.num_queries:
            raise ValueError(
                f"num_patterns={num_patterns} and points={points!r} cannot be combined with groups or a one-to-many "
                "branch, which need learned points without patterns"
            )
        self.layout = layout
        self.embed_dim = embed_dim
        self.num_patterns = num_patterns
        self.patterns = nn.Embedding(num_patterns, embed_dim) if num_patterns else None
        if points == "grid":
            self.register_buffer("points", _grid(layout.num_queries), persistent=False)
        else:
            self.points = nn.Parameter(torch.rand(layout.total, 2))

    def forward(self, batch: int, *, training: bool, positions: Callable[[Tensor], Tensor]) -> list[QueryBlock]:
        """Make the blocks of queries for B images.

        Args:
            batch: B.
            training: whether to add the queries that exist in training only.
            positions: maps points (Q, 2), in 0..1, to the positions of queries at these points, (Q, ...).
        """
        points = self.layout.present(self.points, training=training)
        points = points.to(torch.promote_types(points.dtype, torch.float32))
        position = positions(points)
        if self.patterns is not None:
            contents, points = pair_with_patterns(self.patterns.weight, points)
            position = position.repeat(self.num_patterns, 1)
        else:
            contents = position.new_zeros(len(points), self.embed_dim)
        expanded = (value.expand(batch, -1, -1) for value in (contents, points, position))
        return self.layout.blocks(*expanded, training=training)


def _grid(number: int) -> Tensor:
    """Return the centres of the cells of a square grid in 0..1, (number, 2), row by row, x first."""
    side = math.isqrt(number)
    if side**2 != number:
        raise ValueError(f"num_queries={number}: a grid needs a square number of points, such as {side**2}")
    centres = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(centres, centres).flip(-1)
