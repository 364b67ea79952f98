"""Mixed query selection (DINO, Zhang et al., ICLR 2023, section 3.4).

Legend: B batch, N tokens of all levels, Q queries, C channels.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detrex_lite.arguments import inherits_arguments
from detrex_lite.modeling import TokenLevels
from detrex_lite.projects.dab_deformable_detr.modeling import DabDeformableDetrTransformer, StartingQueries


@inherits_arguments
class DINOTransformer(DabDeformableDetrTransformer):
    """DAB-Deformable-DETR's, where queries take their boxes from proposals and learn their contents.

    Args:
        as_two_stage, num_proposals: see `DeformableDetrTransformer`.
        mixed_query_selection: with two stages, learn contents, one for each rank among the proposals; False: contents
            are those of the proposals, without gradients.
        encoder, decoder, embed_dim, num_feature_levels: see `DeformableDetrTransformer`.
    """

    tgt_embed: nn.Embedding | None

    def __init__(
        self,
        *,
        as_two_stage: bool = True,
        num_proposals: int = 900,
        mixed_query_selection: bool = True,
        **transformer: Any,
    ):
        super().__init__(as_two_stage=as_two_stage, num_proposals=num_proposals, **transformer)
        self.tgt_embed = None
        if as_two_stage and mixed_query_selection:
            self.tgt_embed = nn.Embedding(num_proposals, self.embed_dim)
            nn.init.xavier_uniform_(self.tgt_embed.weight)

    def start(
        self,
        memory: Tensor,
        levels: TokenLevels,
        learned: tuple[Tensor, Tensor] | None,
        class_heads: Sequence[nn.Module],
        box_heads: Sequence[nn.Module],
    ) -> StartingQueries:
        """See `DeformableDetrTransformer.start`."""
        queries = super().start(memory, levels, learned, class_heads, box_heads)
        if self.tgt_embed is None:
            return queries
        number = queries.content.shape[1]  # a small image has fewer tokens than there are contents
        return queries._replace(content=self.tgt_embed.weight[:number].expand(len(memory), -1, -1))
