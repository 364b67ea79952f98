"""Mixed query selection (DINO, Zhang et al., ICLR 2023, section 3.4).

Legend: B batch, N tokens of all levels, Q queries, C channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from detrex_lite.modeling import TokenLevels
from detrex_lite.projects.dab_deformable_detr.modeling import (
    DabDeformableDetrTransformer,
    DabDeformableDetrTransformerDecoder,
    DeformableDetrTransformerEncoder,
    StartingQueries,
)


class DINOTransformer(DabDeformableDetrTransformer):
    """DAB-Deformable-DETR's, where queries take their boxes from proposals and learn their contents.

    Args:
        encoder, decoder, embed_dim, num_feature_levels, as_two_stage, num_proposals: see `DeformableDetrTransformer`.
        mixed_query_selection: with two stages, learn contents, one for each rank among the proposals; False: contents
            are those of the proposals, without gradients.
    """

    tgt_embed: nn.Embedding | None

    def __init__(
        self,
        *,
        encoder: DeformableDetrTransformerEncoder,
        decoder: DabDeformableDetrTransformerDecoder,
        embed_dim: int = 256,
        num_feature_levels: int = 4,
        as_two_stage: bool = True,
        num_proposals: int = 900,
        mixed_query_selection: bool = True,
    ):
        super().__init__(
            encoder=encoder,
            decoder=decoder,
            embed_dim=embed_dim,
            num_feature_levels=num_feature_levels,
            as_two_stage=as_two_stage,
            num_proposals=num_proposals,
        )
        self.tgt_embed = None
        if as_two_stage and mixed_query_selection:
            self.tgt_embed = nn.Embedding(num_proposals, embed_dim)
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
