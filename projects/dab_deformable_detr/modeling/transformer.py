"""The decoder whose queries are boxes (DAB-DETR, Liu et al., ICLR 2022, section 4.1), with deformable attention.

Legend: B batch, N tokens of all levels, Q queries, C channels.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detrex_lite.arguments import inherits_arguments
from detrex_lite.layers import MLP, get_sine_pos_embed
from detrex_lite.modeling import Predictions, TokenLevels, best_tokens, take_tokens
from detrex_lite.projects.deformable_detr.modeling import (
    DeformableDetrTransformer,
    DeformableDetrTransformerDecoder,
    StartingQueries,
)


@inherits_arguments
class DabDeformableDetrTransformerDecoder(DeformableDetrTransformerDecoder):
    """Deformable DETR's decoder with positions made of each layer's boxes, anew in each layer.

    Args:
        embed_dim: C.
        scale_positions: from the second layer on, what a query holds scales its position, channel by channel.
        num_heads, feedforward_dim, dropout, num_layers, num_feature_levels, num_points, with_box_refine,
            look_forward_twice, with_norm: see `DeformableDetrTransformerDecoder`.
    """

    query_scale: MLP | None

    def __init__(self, *, embed_dim: int = 256, scale_positions: bool = True, **decoder: Any):
        super().__init__(embed_dim=embed_dim, **decoder)
        self.embed_dim = embed_dim
        self.ref_point_head = MLP(2 * embed_dim, embed_dim, embed_dim, num_layers=2)
        self.query_scale = MLP(embed_dim, embed_dim, embed_dim, num_layers=2) if scale_positions else None

    def query_position(
        self, query: Tensor, query_pos: Tensor | None, reference: Tensor, levels: TokenLevels, *, first: bool
    ) -> Tensor:
        """See `DeformableDetrTransformerDecoder.query_position`; `reference` are boxes, `query_pos` is not used."""
        # As published, a box is embedded as it lies in the padded batch; detections must not depend on the padding.
        boxes = levels.in_maps(reference)[:, :, 0] if self.training else reference
        position = self.ref_point_head(get_sine_pos_embed(boxes, self.embed_dim // 2).to(query.dtype))
        return position if first or self.query_scale is None else self.query_scale(query) * position


class DabDeformableDetrTransformer(DeformableDetrTransformer):
    """Encoder and decoder; queries are learned boxes and contents, or the encoder's best proposals.

    Proposals are scored by their best class, and only those that become queries are trained, with the objects' classes.
    """

    class_agnostic_proposals = False

    def add_start(self) -> None:
        """Nothing: proposals are taken as they are."""

    def start(
        self,
        memory: Tensor,
        levels: TokenLevels,
        learned: tuple[Tensor, Tensor] | None,
        class_heads: Sequence[nn.Module],
        box_heads: Sequence[nn.Module],
    ) -> StartingQueries:
        """See `DeformableDetrTransformer.start`; `learned` are contents (Q, C) and boxes (Q, 4) cxcywh in 0..1."""
        if self.encoder_proposals is None:
            content, boxes = (one.expand(len(memory), -1, -1) for one in learned)
            return StartingQueries(content, None, boxes)
        found = self.encoder_proposals(memory, levels, class_heads[-1], box_heads[-1])
        best = best_tokens(found.logits.max(-1).values, self.num_proposals, padding=self.avoided(levels))
        content, logits, box_logits = (take_tokens(one, best) for one in found)
        proposals = Predictions(logits, box_logits.sigmoid())
        return StartingQueries(content.detach(), None, proposals.boxes.detach(), proposals)
