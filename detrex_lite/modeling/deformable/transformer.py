"""Encoder and decoders of the Deformable DETR family (Zhu et al., ICLR 2021, section 4).

Legend: B batch, N tokens of all levels, L levels, Q queries, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import MLP, TransformerLayerSequence, get_sine_pos_embed, in_own_precision
from ...structures import ImageBatch
from ..decoder import Decoder, DecoderState, Memory
from ..encoder import norm_after_pre_norm_layers
from ..initialisation import xavier_uniform
from ..multi_scale import TokenLevels, flatten_maps


class DeformableEncoder(TransformerLayerSequence):
    """An encoder in which each token of all levels samples points around its location.

    Pre-norm layers are followed by a final norm.

    Args:
        layer: one layer, of which `num_layers` copies with newly drawn initial values are made, or a list of layers.
            The self-attention gets `reference_points` and `spatial_shapes`.
        num_layers: number of layers; optional with a list.
        memory_fusion: computes the memory from the encoder's input and the results of all layers, see `MemoryFusion`;
            None for the result of the last layer.
    """

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        memory_fusion: nn.Module | None = None,
    ):
        super().__init__(layer, num_layers)
        self.memory_fusion = memory_fusion
        self.norm = norm_after_pre_norm_layers(self)

    def forward(self, tokens: Tensor, *, pos: Tensor, levels: TokenLevels) -> Tensor:
        """tokens: (B, N, C); pos: (B, N, C) or (1, N, C). Returns (B, N, C)."""
        layer_results = self.every_layer(tokens, pos=pos, levels=levels)
        return layer_results[-1] if self.memory_fusion is None else self.memory_fusion([tokens, *layer_results])

    def every_layer(self, tokens: Tensor, *, pos: Tensor, levels: TokenLevels) -> list[Tensor]:
        """Return the result of each layer; the norm after pre-norm layers is applied to the last one only."""
        centres = levels.in_maps(levels.centres()).expand(tokens.shape[0], -1, -1, -1)
        inputs = {"reference_points": centres, "spatial_shapes": levels.spatial_shapes}
        results = []
        for layer in self.layers:
            tokens = layer(tokens, query_pos=pos, query_key_padding_mask=levels.padding, self_attn_inputs=inputs)
            results.append(tokens)
        if self.norm is not None:
            results[-1] = self.norm(results[-1])
        return results or [tokens]


class MemoryFusion(nn.Module):
    """Fuses the results of all encoder layers into one memory (Stable-DINO, Liu et al., ICCV 2023, section 3.3).

    Args:
        embed_dim: C.
        num_layers: number of encoder layers.
        num_fcs: number of linear layers, with ReLU between them: 1 in Stable-DINO, 2 in Relation-DETR.
    """

    def __init__(self, embed_dim: int, num_layers: int, num_fcs: int = 2):
        super().__init__()
        layers: list[nn.Module] = [nn.Linear((num_layers + 1) * embed_dim, embed_dim)]
        for _ in range(num_fcs - 1):
            layers += [nn.ReLU(), nn.Linear(embed_dim, embed_dim)]
        self.layers = nn.Sequential(*layers, nn.LayerNorm(embed_dim))
        xavier_uniform(self)

    def forward(self, results: Sequence[Tensor]) -> Tensor:
        """results: (B, N, C) for the encoder's input and for each of its layers. Returns (B, N, C)."""
        return self.layers(torch.cat(list(results), dim=-1))


class DeformableDecoder(Decoder):
    """A decoder whose queries attend to each other and sample the tokens around their references.

    Positions of queries are inputs and the same for all layers.
    """

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """See `Decoder.layer_inputs`."""
        assert state.reference is not None
        levels = state.memory.require_levels()
        return {
            "query_pos": self.query_position(index, state),
            "cross_attn_inputs": {
                "reference_points": levels.in_maps(state.reference),
                "spatial_shapes": levels.spatial_shapes,
            },
        }

    def query_position(self, index: int, state: DecoderState) -> Tensor | None:
        """Return the position that a layer adds to its queries in attention, (B, Q, C)."""
        return state.queries.position


class DeformableAnchorDecoder(DeformableDecoder):
    """`DeformableDecoder` with positions computed from each layer's boxes (DAB-DETR, Liu et al., ICLR 2022, 4.1).

    Args:
        layer, num_layers, relation, recollection: see `Decoder`.
        embed_dim: C.
        scale_positions: from the second layer on, scale positions channel-wise by a function of the query.
        temperature: of the sine embedding of boxes.
    """

    query_scale: MLP | None

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        relation: nn.Module | None = None,
        recollection: Sequence[Sequence[int]] | None = None,
        embed_dim: int = 256,
        scale_positions: bool = True,
        temperature: float = 10000.0,
    ):
        super().__init__(layer=layer, num_layers=num_layers, relation=relation, recollection=recollection)
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.ref_point_head = MLP(2 * embed_dim, embed_dim, embed_dim, num_layers=2)
        self.query_scale = MLP(embed_dim, embed_dim, embed_dim, num_layers=2) if scale_positions else None
        for part in (self.ref_point_head, self.query_scale):
            if part is not None:
                xavier_uniform(part)

    def query_position(self, index: int, state: DecoderState) -> Tensor:
        """See `DeformableDecoder.query_position`."""
        assert state.reference is not None
        boxes, levels = state.reference, state.memory.require_levels()
        if levels.as_published:  # boxes are embedded relative to the padded batch
            boxes = levels.in_maps(boxes)[:, :, 0]
        embedding = get_sine_pos_embed(boxes, self.embed_dim // 2, self.temperature).to(state.query.dtype)
        position = self.ref_point_head(embedding)
        return position if index == 0 or self.query_scale is None else self.query_scale(state.query) * position


class DeformableBoxDecoder(DeformableDecoder):
    """`DeformableDecoder` with positions computed by an MLP from each layer's boxes (RT-DETR, Zhao et al., CVPR 2024).

    Args:
        layer, num_layers, relation, num_eval_layers, recollection: see `Decoder`.
        position_head: maps boxes (B, Q, 4) cxcywh in 0..1 to positions (B, Q, C), for example an `MLP`.
        position_limit: largest absolute value of positions, to which they are clamped (10 in D-FINE); None for no
            limit.
    """

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        relation: nn.Module | None = None,
        num_eval_layers: int | None = None,
        recollection: Sequence[Sequence[int]] | None = None,
        position_head: nn.Module,
        position_limit: float | None = None,
    ):
        super().__init__(
            layer=layer,
            num_layers=num_layers,
            relation=relation,
            num_eval_layers=num_eval_layers,
            recollection=recollection,
        )
        self.position_head = position_head
        self.position_limit = position_limit

    def query_position(self, index: int, state: DecoderState) -> Tensor:
        """See `DeformableDecoder.query_position`."""
        assert state.reference is not None
        position = in_own_precision(self.position_head, state.reference).to(state.query.dtype)
        limit = self.position_limit
        return position if limit is None else position.clamp(min=-limit, max=limit)


class MultiScaleTransformer(nn.Module):
    """Encoder and decoder of a detector with several feature levels.

    Args:
        encoder: maps (tokens, pos=, levels=) to tokens; an encoder of maps converts them by `TokenLevels.maps` and
            `flatten_maps`. None for the neck's tokens, without positions.
        decoder: turns queries into predictions.
        embed_dim: C.
        num_feature_levels: L; learned level embeddings are added to the positions of tokens for the encoder.
        coarsest_first: order tokens from the coarsest level for the decoder and the selection of queries, as in Mask
            DINO: proposals are then smallest on the coarsest level, and attention numbers levels in that order.
    """

    level_embeds: nn.Parameter | None

    def __init__(
        self,
        *,
        encoder: nn.Module | None,
        decoder: Decoder,
        embed_dim: int = 256,
        num_feature_levels: int = 4,
        coarsest_first: bool = False,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.embed_dim = embed_dim
        self.num_feature_levels = num_feature_levels
        self.coarsest_first = coarsest_first
        self.level_embeds = None
        if encoder is not None:
            self.level_embeds = nn.Parameter(torch.empty(num_feature_levels, embed_dim))
            nn.init.normal_(self.level_embeds)

    def encode(self, maps: Sequence[ImageBatch], positions: Sequence[Tensor]) -> Memory:
        """Encode feature maps; for arguments and errors see `flatten`."""
        tokens, pos, levels = self.flatten(maps, positions)
        if self.encoder is not None:
            tokens = self.encoder(tokens, pos=pos, levels=levels)
        if self.coarsest_first:
            tokens, levels = flatten_maps(levels.maps(tokens)[::-1]), levels.reversed()
        return Memory(tokens, None, levels.padding, levels)

    def flatten(
        self, maps: Sequence[ImageBatch], positions: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None, TokenLevels]:
        """Flatten maps and positions to the input of an encoder.

        Args:
            maps: L padded maps (B, C, h, w), finest first.
            positions: their position embeddings, (B, C, h, w) or (1, C, h, w); none without an encoder.

        Returns:
            Tokens (B, N, C); their positions with level embeddings, (B, N, C) or (1, N, C), or None without an encoder;
            and the layout of the tokens.

        Raises:
            ValueError: when the number of maps is not L.
        """
        if len(maps) != self.num_feature_levels:
            raise ValueError(
                f"the neck gives {len(maps)} feature maps, but the transformer has num_feature_levels="
                f"{self.num_feature_levels}"
            )
        levels = TokenLevels.from_maps(maps)
        tokens = flatten_maps([level.tensor for level in maps])
        if self.level_embeds is None:
            return tokens, None, levels
        pos = flatten_maps(
            [level + embed[:, None, None] for level, embed in zip(positions, self.level_embeds, strict=True)]
        )
        return tokens, pos, levels
