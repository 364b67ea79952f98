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
    """Self-attention among the cells of the feature map; pre-norm layers are followed by a final norm.

    Args:
        layer: one layer, of which `num_layers` copies with newly drawn initial values are made, or a list of layers.
        num_layers: number of layers; optional with a list.
        position_scale: maps cells (B, N, C) to channel-wise factors (B, N, C) of their positions (DAB-DETR, figure 5);
            None for unscaled positions.
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
            pos: (B, N, C) or (1, N, C); 2 C channels for separate positions of x and y, which some attentions take.
            padding: (B, N) bool, True = padding.
            grid: the map whose cells are the tokens, for attentions that require it.

        Returns:
            (B, N, C).
        """
        return self.every_layer(tokens, pos=pos, padding=padding, grid=grid)[-1]

    def every_layer(
        self, tokens: Tensor, *, pos: Tensor, padding: Tensor | None = None, grid: TokenGrid | None = None
    ) -> list[Tensor]:
        """Return the result of each layer; the norm after pre-norm layers is applied to the last one only."""
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
    """DETR's decoder, which adds learned positions to queries in every attention (Carion et al., 2020, figure 10)."""

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """See `Decoder.layer_inputs`."""
        return {"query_pos": state.queries.position}


class PointDecoder(Decoder):
    """Anchor DETR's decoder, with separate x and y positions in cross-attention (Wang et al., AAAI 2022).

    Positions of queries, (B, Q, 3 C), are the positions of their points for self-attention, followed by those of x and
    of y for cross-attention, which is a `RowColumnDecoupledAttention`.
    """

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """See `Decoder.layer_inputs`."""
        channels, position = state.query.shape[-1], state.queries.position
        if position is None or position.shape[-1] != 3 * channels:
            num_channels = None if position is None else position.shape[-1]
            raise ValueError(
                f"PointDecoder needs queries with positions of points, of x and of y, 3 C = {3 * channels} channels, "
                f"got {num_channels}"
            )
        of_points, of_axes = position.split([channels, 2 * channels], dim=-1)
        return {"query_pos": of_points, "cross_attn_inputs": {"query_pos": of_axes}}


class ConditionalDecoder(Decoder):
    """Conditional DETR's decoder, whose cross-attention looks around a reference point (Meng et al., ICCV 2021).

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
        """Compute the reference points, (B, Q, 2), from the learned positions, in float32 at least."""
        if queries.position is None:
            raise ValueError("ConditionalDecoder computes points from positions: it needs queries with positions")
        points = self.ref_point_head(queries.position)
        return points.to(torch.promote_types(points.dtype, torch.float32)).sigmoid()

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """See `Decoder.layer_inputs`: the sine embedding of the point, scaled by the query from the second layer on."""
        assert state.reference is not None
        points = state.reference[..., :2]  # with refinement, references are boxes from the second layer on
        position = get_sine_pos_embed(points, self.embed_dim // 2, self.temperature).to(state.query.dtype)
        if index > 0:
            position = position * self.query_scale(state.query)
        return {"query_pos": state.queries.position, "cross_attn_inputs": {"query_sine_embed": position}}


class AnchorDecoder(Decoder):
    """DAB-DETR's decoder, which looks for objects with the position and size of a box (Liu et al., 2022, figure 5).

    Args:
        layer, num_layers, relation, recollection: see `Decoder`; cross-attention is a `ConditionalCrossAttention`,
            which adds positions to contents in the first layer only.
        embed_dim: C.
        modulate_hw_attn: whether a box's width and height modulate how fast attention decreases around its centre.
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
        """See `Decoder.layer_inputs`: positions of boxes, and embedded centres, scaled by the query."""
        assert state.reference is not None
        embedding = get_sine_pos_embed(state.reference, self.embed_dim // 2, self.temperature).to(state.query.dtype)
        position = embedding[..., : self.embed_dim]  # y and x of (y, x, w, h)
        if index > 0:
            position = position * self.query_scale(state.query)
        if self.ref_anchor_head is not None:
            position = modulate(position, self.ref_anchor_head(state.query).sigmoid(), state.reference[..., 2:])
        return {"query_pos": self.ref_point_head(embedding), "cross_attn_inputs": {"query_sine_embed": position}}


def add_query_pos_in_first_layer_only(decoder: Decoder) -> None:
    """Remove the projection that adds positions of queries to their contents from all layers but the first."""
    for layer in decoder.layers[1:]:
        for module in layer.modules():
            if isinstance(module, ConditionalCrossAttention):
                module.query_pos_proj = None


def modulate(position: Tensor, expected: Tensor, sizes: Tensor) -> Tensor:
    """Scale the embedding of y by expected height / height and that of x by expected width / width (DAB-DETR, eq. 6).

    Args:
        position: (B, Q, C), the embedding of y, followed by that of x.
        expected: (B, Q, 2), width and height in 0..1 predicted from the content.
        sizes: (B, Q, 2), width and height of the box in 0..1.
    """
    ratio = (expected / sizes).flip(-1).to(position.dtype)
    return (position.unflatten(-1, (2, -1)) * ratio[..., None]).flatten(-2)


class SingleLevelTransformer(nn.Module):
    """Encoder and decoder of a detector with one feature map.

    Args:
        encoder: maps (tokens, pos=, padding=, grid=) to tokens.
        decoder: turns queries into predictions.
        mask_memory_padding: whether the decoder never attends to padding. False: in training it does, as in detrex's
            DAB-DETR and DN-DETR; detections never depend on padding.
        sampler: maps (map, positions) to fewer tokens for encoder and decoder, see `PollAndPoolSampler`; None for all
            cells.
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
        """Encode all cells of a map, or the tokens that the sampler makes of it.

        Args:
            feature: (B, C, h, w), with its padding.
            pos: (B, C, h, w), or (1, C, h, w) if all images share it; 2 C channels for separate positions of x and y.
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
