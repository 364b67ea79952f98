"""The auxiliary heads of a detector, and the queries that they give its decoder (Co-DETR, figure 3).

Legend: B batch, L levels of the encoder, C channels.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..queries import QueryBlock
from ..targets import Targets
from .positives import PositiveQueries
from .pyramid import Pyramid


class CollaborativeHeads(nn.Module):
    """Heads that read what the encoder gives, one level more of it, and are trained beside the decoder.

    Each of them has losses of its own. What it assigns to objects goes through the decoder as further queries, which
    are compared with these objects. Evaluation needs none of this.

    Args:
        heads: name -> head: (Pyramid, Targets) to a `HeadResult`.
        queries: name -> what makes queries of its positives; the same names. None for no such queries.
        embed_dim: C.
        finest_stride: pixels of a cell of the finest map; each level doubles them.
        num_layers: of the decoder, whose losses are as many times as large.
        head_weight: of the losses of heads, for each decoder layer; lambda 2 of the paper.
        query_weight: of the losses of positive queries; lambda 1.

    Raises:
        ValueError: without heads, or when heads and queries have different names.
    """

    def __init__(
        self,
        *,
        heads: Mapping[str, nn.Module],
        queries: Mapping[str, PositiveQueries] | None,
        embed_dim: int,
        finest_stride: int,
        num_layers: int,
        head_weight: float = 2.0,
        query_weight: float = 1.0,
    ):
        super().__init__()
        if not heads:
            raise ValueError("collaborative heads are none: model.collaboration=null is how to leave them out")
        if queries is not None and set(queries) != set(heads):
            raise ValueError(
                f"heads are {', '.join(heads)}, but queries are made of {', '.join(queries) or 'none'}: each head "
                "needs its own, or queries=null leaves out all"
            )
        self.heads = nn.ModuleDict(heads)
        self.queries = None if queries is None else nn.ModuleDict(queries)
        self.embed_dim = embed_dim
        self.finest_stride = finest_stride
        self.weight = head_weight * num_layers
        self.query_weight = query_weight
        self.downsample = nn.Sequential(
            nn.Conv2d(embed_dim, embed_dim, 3, stride=2, padding=1), nn.GroupNorm(32, embed_dim)
        )

    @property
    def with_positions(self) -> bool | None:
        """Whether queries have positions; None when there are no queries."""
        if self.queries is None:
            return None
        return any(made.with_positions for made in self.queries.values())

    def forward(
        self, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], targets: Targets
    ) -> tuple[list[QueryBlock], dict[str, Tensor]]:
        """Train the heads.

        Args:
            maps: L maps (B, C, h, w) of encoded tokens, finest first.
            image_sizes: B pairs (height, width) in pixels, without padding.
            targets: the batch's objects.

        Returns:
            A block of queries for each head, with the suffix "_" and its name, which do not see each other; and the
            weighted losses of the heads, "loss_<name>_head_<kind>".
        """
        every = [*maps, self.downsample(maps[-1])]
        pyramid = Pyramid(every, [self.finest_stride * 2**level for level in range(len(every))], image_sizes)
        blocks: list[QueryBlock] = []
        losses: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            result = head(pyramid, targets)
            losses |= {f"loss_{name}_head_{kind}": self.weight * loss for kind, loss in result.losses.items()}
            if self.queries is not None:
                block = self.queries[name](f"_{name}", result.candidates, pyramid, targets, self.query_weight)
                blocks.append(block)
        return blocks, losses
