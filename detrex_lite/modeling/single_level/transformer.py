"""Encoder and decoders of one feature map: DETR, Conditional DETR, DAB-DETR and Anchor DETR.

Legend: B batch, N cells of the feature map, Q queries, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import MLP, ConditionalCrossAttention, TokenGrid, TransformerLayerSequence, get_sine_pos_embed
from ...structures import ImageBatch
from ..decoder import Decoder, DecoderState, Memory, grid_input
from ..encoder import norm_after_pre_norm_layers
from ..initialisation import xavier_uniform
from ..queries import Queries
from .sampling import PollAndPoolSampler


class SingleLevelEncoder(TransformerLayerSequence):
    """Self-attention among the cells of the feature map; pre-norm layers are followed by one more norm.

    Args:
        layer: one layer, of which `num_layers` copies with initial values of their own are made, or the layers.
        num_layers: how many layers; may be left out when a list is given.
        position_scale: cells (B, N, C) to (B, N, C), which their positions are multiplied by, channel by channel
            (DAB-DETR, figure 5); None for positions as they are.
    """

    norm: nn.Module | None

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        position_scale: nn.Module | None = None,
    ):
        super().__init__(layer, num_layers)
        self.query_scale = position_scale
        if position_scale is not None:
            xavier_uniform(position_scale)
        self.norm = norm_after_pre_norm_layers(self)

    def forward(
        self, tokens: Tensor, *, pos: Tensor, padding: Tensor | None = None, grid: TokenGrid | None = None
    ) -> Tensor:
        """Encode.

        Args:
            tokens: (B, N, C).
            pos: (B, N, C) or (1, N, C); with 2 C channels for positions of x and of y, which some attentions take.
            padding: (B, N) bool, True = padding.
            grid: the map whose cells are the tokens, for attentions that require it.

        Returns:
            (B, N, C).
        """
        return self.every_layer(tokens, pos=pos, padding=padding, grid=grid)[-1]

    def every_layer(
        self, tokens: Tensor, *, pos: Tensor, padding: Tensor | None = None, grid: TokenGrid | None = None
    ) -> list[Tensor]:
        """The same for each layer, in their order; the norm after pre-norm layers is for the last one alone."""
        results = [tokens]
        for layer in self.layers:
            tokens = results[-1]
            position = pos if self.query_scale is None else pos * self.query_scale(tokens)
            inputs = grid_input(layer, "self_attn", grid)
            results.append(layer(tokens, query_pos=position, query_key_padding_mask=padding, self_attn_inputs=inputs))
        if self.norm is not None:
            results[-1] = self.norm(results[-1])
        return results[1:] or results


class PositionalDecoder(Decoder):
    """DETR's: learned positions are added to queries in every attention (Carion et al., ECCV 2020, figure 10)."""

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """See `Decoder.layer_inputs`."""
        return {"query_pos": state.queries.position}


class PointDecoder(Decoder):
    """Anchor DETR's: cross-attention gets the x and the y of each query's point apart (Wang et al., AAAI 2022).

    Positions of queries, (B, Q, 3 C), are those of their points for self-attention, and then for cross-attention, a
    `RowColumnDecoupledAttention`, those of x and of y.
    """

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """See `Decoder.layer_inputs`."""
        channels, position = state.query.shape[-1], state.queries.position
        if position is None or position.shape[-1] != 3 * channels:
            found = None if position is None else position.shape[-1]
            raise ValueError(
                f"PointDecoder needs queries with positions of points, of x and of y, 3 C = {3 * channels} channels; "
                f"they have {found}"
            )
        of_points, of_axes = position.split([channels, 2 * channels], dim=-1)
        return {"query_pos": of_points, "cross_attn_inputs": {"query_pos": of_axes}}


class ConditionalDecoder(Decoder):
    """Conditional DETR's: cross-attention looks around a point, as far as each query says (Meng et al., ICCV 2021).

    Args:
        layer, num_layers, relation, recollection: see `Decoder`; cross-attention is a `ConditionalCrossAttention`,
            which adds positions to contents in the first layer only.
        embed_dim: C.
        temperature: of the sine embedding of points.
    """

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        relation: nn.Module | None = None,
        recollection: Sequence[Sequence[int]] | None = None,
        embed_dim: int = 256,
        temperature: float = 10000.0,
    ):
        super().__init__(layer=layer, num_layers=num_layers, relation=relation, recollection=recollection)
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.ref_point_head = MLP(embed_dim, embed_dim, 2, num_layers=2)
        self.query_scale = MLP(embed_dim, embed_dim, embed_dim, num_layers=2)
        for part in (self.ref_point_head, self.query_scale):
            xavier_uniform(part)
        add_query_pos_in_first_layer_only(self)

    def first_reference(self, queries: Queries) -> Tensor:
        """(B, Q, 2), the points, which follow from the learned positions, in float32 at least."""
        if queries.position is None:
            raise ValueError("ConditionalDecoder makes points of positions: it needs queries with positions")
        points = self.ref_point_head(queries.position)
        return points.to(torch.promote_types(points.dtype, torch.float32)).sigmoid()

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """See `Decoder.layer_inputs`: the sine embedding of the point, scaled by the query from the second layer on."""
        assert state.reference is not None
        points = state.reference[..., :2]  # boxes from the second layer on, where they are refined
        place = get_sine_pos_embed(points, self.embed_dim // 2, self.temperature).to(state.query.dtype)
        if index > 0:
            place = place * self.query_scale(state.query)
        return {"query_pos": state.queries.position, "cross_attn_inputs": {"query_sine_embed": place}}


class AnchorDecoder(Decoder):
    """DAB-DETR's: queries look for objects of their box's place and size (Liu et al., ICLR 2022, figure 5).

    Args:
        layer, num_layers, relation, recollection: see `Decoder`; cross-attention is a `ConditionalCrossAttention`,
            which adds positions to contents in the first layer only.
        embed_dim: C.
        modulate_hw_attn: a box's width and height change how fast attention falls off around its centre.
        temperature: of the sine embedding of boxes.
    """

    ref_anchor_head: MLP | None

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        relation: nn.Module | None = None,
        recollection: Sequence[Sequence[int]] | None = None,
        embed_dim: int = 256,
        modulate_hw_attn: bool = True,
        temperature: float = 10000.0,
    ):
        super().__init__(layer=layer, num_layers=num_layers, relation=relation, recollection=recollection)
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.ref_point_head = MLP(2 * embed_dim, embed_dim, embed_dim, num_layers=2)
        self.query_scale = MLP(embed_dim, embed_dim, embed_dim, num_layers=2)
        self.ref_anchor_head = MLP(embed_dim, embed_dim, 2, num_layers=2) if modulate_hw_attn else None
        for part in (self.ref_point_head, self.query_scale, self.ref_anchor_head):
            if part is not None:
                xavier_uniform(part)
        add_query_pos_in_first_layer_only(self)

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """See `Decoder.layer_inputs`: positions of boxes, and embedded centres, which the query scales."""
        assert state.reference is not None
        embedding = get_sine_pos_embed(state.reference, self.embed_dim // 2, self.temperature).to(state.query.dtype)
        place = embedding[..., : self.embed_dim]  # of (y, x, w, h) the first two
        if index > 0:
            place = place * self.query_scale(state.query)
        if self.ref_anchor_head is not None:
            place = modulate(place, self.ref_anchor_head(state.query).sigmoid(), state.reference[..., 2:])
        return {"query_pos": self.ref_point_head(embedding), "cross_attn_inputs": {"query_sine_embed": place}}


def add_query_pos_in_first_layer_only(decoder: Decoder) -> None:
    """Take from all layers but the first the projection that adds positions of queries to their contents."""
    for layer in decoder.layers[1:]:
        for module in layer.modules():
            if isinstance(module, ConditionalCrossAttention):
                module.query_pos_proj = None


def modulate(place: Tensor, expected: Tensor, sizes: Tensor) -> Tensor:
    """Scale the embedding of y by expected height / height and that of x by expected width / width (DAB-DETR, eq. 6).

    Args:
        place: (B, Q, C), the embedding of y, then that of x.
        expected: (B, Q, 2), width and height in 0..1 that the content asks for.
        sizes: (B, Q, 2), the box's width and height in 0..1.
    """
    ratio = (expected / sizes).flip(-1).to(place.dtype)
    return (place.unflatten(-1, (2, -1)) * ratio[..., None]).flatten(-2)


class SingleLevelTransformer(nn.Module):
    """Encoder and decoder of a detector with one feature map.

    Args:
        encoder: (tokens, pos=, padding=, grid=) to tokens.
        decoder: turns queries into predictions.
        mask_memory_padding: the decoder never attends to padding. False: in training it does, as detrex's DAB-DETR and
            DN-DETR; detections never depend on padding.
        sampler: (map, positions) to fewer tokens, which encoder and decoder work on, see `PollAndPoolSampler`; None for
            all cells.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        decoder: Decoder,
        mask_memory_padding: bool = True,
        sampler: PollAndPoolSampler | None = None,
    ):
        super().__init__()
        self.sampler = sampler
        self.encoder = encoder
        self.decoder = decoder
        self.mask_memory_padding = mask_memory_padding

    def encode(self, feature: ImageBatch, pos: Tensor) -> Memory:
        """Encode a map, cell by cell, or what the sampler makes of it.

        Args:
            feature: (B, C, h, w), and its padding.
            pos: (B, C, h, w), or (1, C, h, w) for all images alike; with 2 C channels for positions of x and of y.
        """
        grid: TokenGrid | None = None
        losses: Mapping[str, Tensor] = {}
        if self.sampler is None:
            height, width = feature.tensor.shape[-2:]
            grid = TokenGrid(height, width, feature.as_published)
            tokens, pos = feature.tensor.flatten(2).transpose(1, 2), pos.flatten(2).transpose(1, 2)
            padding = None if feature.mask is None else feature.mask.flatten(1)
        else:
            tokens, pos, padding, losses = self.sampler(feature, pos)
        tokens = self.encoder(tokens, pos=pos, padding=padding, grid=grid)
        attends_to_padding = feature.as_published and not self.mask_memory_padding
        return Memory(tokens, pos, None if attends_to_padding else padding, grid=grid, losses=losses)
