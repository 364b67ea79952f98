"""Encoder and decoder of DAB-DETR (Liu et al., ICLR 2022, figure 5): queries are boxes that each layer moves.

Legend: B batch, N cells of the feature map, Q queries, C channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detrex_lite.arguments import inherits_arguments
from detrex_lite.layers import (
    FFN,
    MLP,
    BaseTransformerLayer,
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    TransformerLayerSequence,
    get_sine_pos_embed,
)
from detrex_lite.modeling import refine
from detrex_lite.projects.detr.modeling import DetrTransformer, DetrTransformerEncoder
from detrex_lite.structures import ImageBatch


@inherits_arguments
class DabDetrTransformerEncoder(DetrTransformerEncoder):
    """DETR's encoder, where each cell scales its position by what it holds.

    Args:
        embed_dim: C.
        dropout: dropout probability of attention weights, of attention results and in the FFN.
        activation: makes the activation of the FFN.
        num_heads, feedforward_dim, num_layers, pre_norm: see `DetrTransformerEncoder`.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.PReLU,
        **layers: Any,
    ):
        super().__init__(embed_dim=embed_dim, dropout=dropout, activation=activation, **layers)
        self.query_scale = MLP(embed_dim, embed_dim, embed_dim, num_layers=2)

    def cell_position(self, memory: Tensor, pos: Tensor) -> Tensor:
        """See `DetrTransformerEncoder.cell_position`."""
        return pos * self.query_scale(memory)


class DabDetrTransformerDecoder(TransformerLayerSequence):
    """Queries that look for objects of their anchor's place and size, and move the anchor.

    Args:
        embed_dim, num_heads, feedforward_dim, dropout, num_layers: see `DetrTransformerEncoder`.
        modulate_hw_attn: the anchor's width and height change how fast attention falls off beside its centre.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        dropout: float = 0.0,
        num_layers: int = 6,
        modulate_hw_attn: bool = True,
    ):
        layers = [
            BaseTransformerLayer(
                attn=[
                    ConditionalSelfAttention(embed_dim, num_heads, dropout, dropout),
                    ConditionalCrossAttention(embed_dim, num_heads, dropout, dropout, add_query_pos=index == 0),
                ],
                ffn=FFN(embed_dim, feedforward_dim, activation=nn.PReLU, ffn_drop=dropout),
                norm=nn.LayerNorm(embed_dim),
                operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
            )
            for index in range(num_layers)
        ]
        super().__init__(layers)
        self.embed_dim = embed_dim
        self.ref_point_head = MLP(2 * embed_dim, embed_dim, embed_dim, num_layers=2)
        self.query_scale = MLP(embed_dim, embed_dim, embed_dim, num_layers=2)
        self.ref_anchor_head = MLP(embed_dim, embed_dim, 2, num_layers=2) if modulate_hw_attn else None
        self.post_norm_layer = nn.LayerNorm(embed_dim)

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        *,
        anchors: Tensor,
        pos: Tensor,
        box_head: nn.Module,
        padding: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            query: (B, Q, C), contents.
            memory: (B, N, C), the encoder's result.
            anchors: (B, Q, 4) cxcywh in 0..1.
            pos: (B, N, C) or (1, N, C), positions of the memory.
            box_head: queries (B, Q, C) to box offsets (B, Q, 4).
            padding: (B, N) bool, True = padding.
            attn_mask: which queries do not attend to which, as `ConditionalSelfAttention` takes it.

        Returns:
            Normalised queries (layers, B, Q, C), and the anchors (layers, B, Q, 4) that each layer's boxes refer to.
        """
        queries, references = [], [anchors]
        for index, layer in enumerate(self.layers):
            if index > 0:
                # Moved by what is not normalised. Layers see anchors without gradients; the boxes that refer to them
                # have these, so that the loss of a layer's boxes teaches the layer before too.
                references.append(refine(box_head(query), anchors))
                anchors = references[-1].detach()
            embedding = get_sine_pos_embed(anchors, self.embed_dim // 2)  # (B, Q, 2 * C): of y, x, w, h
            place = embedding[..., : self.embed_dim]
            if index > 0:
                place = place * self.query_scale(query)
            if self.ref_anchor_head is not None:
                place = modulate(place, self.ref_anchor_head(query).sigmoid(), anchors[..., 2:])
            query = layer(
                query,
                memory,
                query_pos=self.ref_point_head(embedding),
                key_pos=pos,
                self_attn_mask=attn_mask,
                key_padding_mask=padding,
                cross_attn_inputs={"query_sine_embed": place},
            )
            queries.append(query)
        return self.post_norm_layer(torch.stack(queries)), torch.stack(references)


def modulate(place: Tensor, expected: Tensor, sizes: Tensor) -> Tensor:
    """Scale the embedding of y by expected height / height and that of x by expected width / width (equation 6).

    Args:
        place: (B, Q, C), the embedding of y, then that of x.
        expected: (B, Q, 2), width and height in 0..1 that the content asks for.
        sizes: (B, Q, 2), the anchor's width and height in 0..1.
    """
    ratio = (expected / sizes).flip(-1)
    return (place.unflatten(-1, (2, -1)) * ratio[..., None]).flatten(-2)


class DabDetrTransformer(DetrTransformer):
    """DETR's, where the decoder turns contents and anchors into object embeddings and references of boxes."""

    def forward(
        self,
        feature: ImageBatch,
        *,
        pos: Tensor,
        contents: Tensor,
        anchors: Tensor,
        box_head: nn.Module,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode and decode.

        Args:
            feature, pos: see `DetrTransformer.encode`.
            contents, anchors, box_head, attn_mask: as in the decoder.

        Returns:
            Queries (layers, B, Q, C) and the references (layers, B, Q, 4) of their boxes.
        """
        memory, pos, padding = self.encode(feature, pos)
        # In training queries read padding too, as detrex trains; detections must not depend on how much there is of it.
        padding = None if self.training else padding
        return self.decoder(
            contents, memory, anchors=anchors, pos=pos, box_head=box_head, padding=padding, attn_mask=attn_mask
        )
