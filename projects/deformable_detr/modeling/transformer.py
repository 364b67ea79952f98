"""Encoder and decoder of Deformable DETR (Zhu et al., ICLR 2021, section 4): attention to a few points of each level.

Legend: B batch, N tokens of all levels, L levels, Q queries, C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detrex_lite.layers import (
    FFN,
    BaseTransformerLayer,
    MultiheadAttention,
    MultiScaleDeformableAttention,
    TransformerLayerSequence,
    get_sine_pos_embed,
)
from detrex_lite.modeling import EncoderProposals, Predictions, TokenLevels, flatten_maps, refine, take_best
from detrex_lite.structures import ImageBatch


class DeformableDetrTransformerEncoder(TransformerLayerSequence):
    """Tokens of all levels that read from each other, each around its own place.

    Args:
        embed_dim: C.
        num_heads: attention heads.
        feedforward_dim: hidden channels of the FFN.
        dropout: dropout probability of attention results and in the FFN.
        num_layers: how many layers.
        num_feature_levels: L.
        num_points: sampling points per head and level.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
        num_layers: int = 6,
        num_feature_levels: int = 4,
        num_points: int = 4,
    ):
        layer = BaseTransformerLayer(
            attn=MultiScaleDeformableAttention(embed_dim, num_heads, num_feature_levels, num_points, dropout),
            ffn=FFN(embed_dim, feedforward_dim, ffn_drop=dropout),
            norm=nn.LayerNorm(embed_dim),
            operation_order=("self_attn", "norm", "ffn", "norm"),
        )
        super().__init__(layer, num_layers)

    def forward(self, tokens: Tensor, *, pos: Tensor, levels: TokenLevels) -> Tensor:
        """tokens: (B, N, C); pos: (B, N, C) or (1, N, C). Returns (B, N, C)."""
        centres = levels.in_maps(levels.centres()).expand(tokens.shape[0], -1, -1, -1)
        inputs = {"reference_points": centres, "spatial_shapes": levels.spatial_shapes}
        for layer in self.layers:
            tokens = layer(tokens, query_pos=pos, query_key_padding_mask=levels.padding, self_attn_inputs=inputs)
        return tokens


class DeformableDetrTransformerDecoder(TransformerLayerSequence):
    """Queries that attend to each other and read from the encoded tokens around their reference points.

    Args:
        embed_dim, num_heads, feedforward_dim, dropout, num_layers, num_feature_levels, num_points: as in the encoder;
            dropout also of the weights of attention among queries.
        with_box_refine: each layer's boxes, without their gradients, are the next layer's references.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
        num_layers: int = 6,
        num_feature_levels: int = 4,
        num_points: int = 4,
        with_box_refine: bool = False,
    ):
        layer = BaseTransformerLayer(
            attn=[
                MultiheadAttention(embed_dim, num_heads, attn_drop=dropout, proj_drop=dropout),
                MultiScaleDeformableAttention(embed_dim, num_heads, num_feature_levels, num_points, dropout),
            ],
            ffn=FFN(embed_dim, feedforward_dim, ffn_drop=dropout),
            norm=nn.LayerNorm(embed_dim),
            operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
        )
        super().__init__(layer, num_layers)
        self.with_box_refine = with_box_refine

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        *,
        query_pos: Tensor,
        reference: Tensor,
        levels: TokenLevels,
        box_heads: Sequence[nn.Module],
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            query, query_pos: (B, Q, C).
            memory: (B, N, C), the encoder's result.
            reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1 of each image.
            levels: where the memory's tokens are.
            box_heads: for each layer, queries (B, Q, C) to box offsets (B, Q, 4).

        Returns:
            Queries (layers, B, Q, C) and boxes (layers, B, Q, 4) cxcywh in 0..1 after each layer.
        """
        queries, boxes = [], []
        for layer, box_head in zip(self.layers, box_heads, strict=False):
            inputs = {"reference_points": levels.in_maps(reference), "spatial_shapes": levels.spatial_shapes}
            query = layer(
                query,
                memory,
                query_pos=query_pos,
                key_padding_mask=levels.padding,
                cross_attn_inputs=inputs,
            )
            queries.append(query)
            boxes.append(refine(box_head(query), reference))
            if self.with_box_refine:
                reference = boxes[-1].detach()
        return torch.stack(queries), torch.stack(boxes)


class DecodedQueries(NamedTuple):
    """What the transformer returns.

    Attributes:
        queries: (layers, B, Q, C).
        boxes: (layers, B, Q, 4) cxcywh in 0..1.
        proposals: the encoder's predictions for each token; None without two stages.
    """

    queries: Tensor
    boxes: Tensor
    proposals: Predictions | None


class DeformableDetrTransformer(nn.Module):
    """Encoder and decoder; the decoder's queries are learned, or made of the encoder's best proposals.

    Args:
        encoder: encodes the tokens of all levels.
        decoder: turns queries into object embeddings and boxes.
        embed_dim: C.
        num_feature_levels: L.
        as_two_stage: take queries from proposals.
        num_proposals: how many, with two stages.
    """

    def __init__(
        self,
        *,
        encoder: DeformableDetrTransformerEncoder,
        decoder: DeformableDetrTransformerDecoder,
        embed_dim: int = 256,
        num_feature_levels: int = 4,
        as_two_stage: bool = False,
        num_proposals: int = 300,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.embed_dim = embed_dim
        self.num_proposals = num_proposals
        self.level_embeds = nn.Parameter(torch.empty(num_feature_levels, embed_dim))
        self.encoder_proposals = EncoderProposals(embed_dim) if as_two_stage else None
        if as_two_stage:
            self.pos_trans = nn.Linear(2 * embed_dim, 2 * embed_dim)
            self.pos_trans_norm = nn.LayerNorm(2 * embed_dim)
        else:
            self.reference_points = nn.Linear(embed_dim, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights but in deformable attention, as the paper's repository."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.reset_parameters()
        if self.encoder_proposals is None:
            nn.init.zeros_(self.reference_points.bias)
        nn.init.normal_(self.level_embeds)

    def forward(
        self,
        maps: Sequence[ImageBatch],
        positions: Sequence[Tensor],
        *,
        query_embed: Tensor | None,
        class_heads: Sequence[nn.Module],
        box_heads: Sequence[nn.Module],
    ) -> DecodedQueries:
        """Encode and decode.

        Args:
            maps: L padded maps (B, C, h, w), finest first.
            positions: their position embeddings, (B, C, h, w) or (1, C, h, w).
            query_embed: (Q, 2 * C), learned positions and contents; None with two stages.
            class_heads, box_heads: for each decoder layer, and with two stages one more for the encoder.
        """
        levels = TokenLevels.from_maps(maps)
        pos = flatten_maps([one + self.level_embeds[level, :, None, None] for level, one in enumerate(positions)])
        memory = self.encoder(flatten_maps([one.tensor for one in maps]), pos=pos, levels=levels)

        if self.encoder_proposals is None:
            query_pos, query = query_embed.expand(len(maps[0]), -1, -1).chunk(2, dim=-1)
            reference, predictions = self.reference_points(query_pos).sigmoid(), None
        else:
            proposals = self.encoder_proposals(memory, levels, class_heads[-1], box_heads[-1])
            predictions = Predictions(proposals.logits, proposals.box_logits.sigmoid())
            # The score for "some object" is the first class, which these predictions are trained for.
            scores = proposals.logits[..., 0]
            # Training takes padding too, as published; detections must not depend on how much there is of it.
            padding = None if self.training else levels.padding
            best = take_best(predictions.boxes, scores, self.num_proposals, padding=padding)
            reference = best.detach()
            embedding = get_sine_pos_embed(reference, self.embed_dim // 2, exchange_xy=False)
            query_pos, query = self.pos_trans_norm(self.pos_trans(embedding)).chunk(2, dim=-1)

        queries, boxes = self.decoder(
            query, memory, query_pos=query_pos, reference=reference, levels=levels, box_heads=box_heads
        )
        return DecodedQueries(queries, boxes, predictions)
