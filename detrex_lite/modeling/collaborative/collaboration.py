"""The auxiliary heads of a detector and the decoder queries made from their positives (Co-DETR, figure 3).

Legend: B batch, L levels of the encoder, C channels.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..queries import QueryBlock
from ..targets import Targets
from .positives import PositiveQueries
from .pyramid import Pyramid


class CollaborativeHeads(nn.Module):
    """Auxiliary heads that read the encoder's levels and one more, and are trained together with the decoder.

    Each head has its own losses. The candidates that it assigns to objects also go through the decoder as further
    queries, which are matched with these objects. Evaluation uses none of this.

    Args:
        heads: maps names to heads, which map (Pyramid, Targets) to a `HeadResult`.
        queries: maps the same names to modules that make queries of the head's positives. None for no such queries.
        embed_dim: C.
        finest_stride: stride of the finest map in pixels; it doubles from level to level.
        num_layers: number of decoder layers, by which the losses of the heads are multiplied.
        head_weight: weight of the losses of heads per decoder layer, lambda 2 of the paper.
        query_weight: weight of the losses of positive queries, lambda 1.

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
            raise ValueError("heads is empty: set model.collaboration=null to disable collaborative heads")
        if queries is not None and set(queries) != set(heads):
            raise ValueError(
                f"heads are {', '.join(heads)}, but queries are given for {', '.join(queries) or 'none'}: give "
                "queries for each head, or queries=null for none"
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
        """Whether queries have positions; None without queries."""
        if self.queries is None:
            return None
        return any(source.with_positions for source in self.queries.values())

    def forward(
        self, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], targets: Targets
    ) -> tuple[list[QueryBlock], dict[str, Tensor]]:
        """Train the heads.

        Args:
            maps: L maps (B, C, h, w) of encoded tokens, finest first.
            image_sizes: B pairs (height, width) in pixels, without padding.
            targets: the objects of the batch.

        Returns:
            One block of queries per head, with the suffix "_" and the head's name, which do not attend to each other;
            and the weighted losses of the heads, "loss_<name>_head_<kind>".
        """
        all_maps = [*maps, self.downsample(maps[-1])]
        pyramid = Pyramid(all_maps, [self.finest_stride * 2**level for level in range(len(all_maps))], image_sizes)
        blocks: list[QueryBlock] = []
        losses: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            result = head(pyramid, targets)
            losses |= {f"loss_{name}_head_{kind}": self.weight * loss for kind, loss in result.losses.items()}
            if self.queries is not None:
                block = self.queries[name](f"_{name}", result.candidates, pyramid, targets, self.query_weight)
                blocks.append(block)
        return blocks, losses
