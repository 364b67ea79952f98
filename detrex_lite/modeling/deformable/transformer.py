"""Encoder and decoders of the family that Deformable DETR founded (Zhu et al., ICLR 2021, section 4).

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
    """Tokens of all levels that read from each other, each around its own place.

    Pre-norm layers are followed by one more norm.

    Args:
        layer: one layer, of which `num_layers` copies with initial values of their own are made, or the layers. Their
            self-attention gets `reference_points` and `spatial_shapes`.
        num_layers: how many layers; may be left out when a list is given.
        memory_fusion: makes the memory of the encoder's input and the results of all layers, see `MemoryFusion`; None
            for the last layer's result.
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
        every = self.every_layer(tokens, pos=pos, levels=levels)
        return every[-1] if self.memory_fusion is None else self.memory_fusion([tokens, *every])

    def every_layer(self, tokens: Tensor, *, pos: Tensor, levels: TokenLevels) -> list[Tensor]:
        """The same for each layer, in their order; the norm after pre-norm layers is for the last one alone."""
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
    """The results of all encoder layers as one memory (Stable-DINO, Liu et al., ICCV 2023, section 3.3).

    Args:
        embed_dim: C.
        num_layers: of the encoder.
        num_fcs: linear layers, with ReLU between them: 1 in Stable-DINO, 2 in Relation-DETR.
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
    """Queries that attend to each other and read from the tokens around their references.

    Positions of queries are given with them and are the same for all layers.
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
        """(B, Q, C), what a layer adds to its queries in attention."""
        return state.queries.position


class DeformableAnchorDecoder(DeformableDecoder):
    """The same with positions made of each layer's boxes (DAB-DETR, Liu et al., ICLR 2022, section 4.1).

    Args:
        layer, num_layers, relation, recollection: see `Decoder`.
        embed_dim: C.
        scale_positions: from the second layer on, what a query holds scales its position, channel by channel.
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
        if levels.as_published:  # a box is embedded as it lies in the padded batch
            boxes = levels.in_maps(boxes)[:, :, 0]
        embedding = get_sine_pos_embed(boxes, self.embed_dim // 2, self.temperature).to(state.query.dtype)
        position = self.ref_point_head(embedding)
        return position if index == 0 or self.query_scale is None else self.query_scale(state.query) * position


class DeformableBoxDecoder(DeformableDecoder):
    """The same with positions that a module makes of each layer's boxes as they are (RT-DETR, Zhao et al., CVPR 2024).

    Args:
        layer, num_layers, relation, num_eval_layers, recollection: see `Decoder`.
        position_head: boxes (B, Q, 4) cxcywh in 0..1 to positions (B, Q, C), as an `MLP`.
        position_limit: what the numbers of positions are clamped to, in absolute value (D-FINE has 10); None for as
            they are.
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
        encoder: (tokens, pos=, levels=) to tokens; one that works on maps goes there and back by `TokenLevels.maps` and
            `flatten_maps`. None for tokens as the neck gives them, without positions.
        decoder: turns queries into predictions.
        embed_dim: C.
        num_feature_levels: L, which the encoder tells apart by learned embeddings added to the positions of tokens.
        coarsest_first: the decoder and the selection of queries get the tokens of the coarsest level first, as in Mask
            DINO: proposals are then smallest there, and attention counts levels from there.
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
        """Encode feature maps; arguments and errors as of `flatten`."""
        tokens, pos, levels = self.flatten(maps, positions)
        if self.encoder is not None:
            tokens = self.encoder(tokens, pos=pos, levels=levels)
        if self.coarsest_first:
            tokens, levels = flatten_maps(levels.maps(tokens)[::-1]), levels.reversed()
        return Memory(tokens, None, levels.padding, levels)

    def flatten(
        self, maps: Sequence[ImageBatch], positions: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None, TokenLevels]:
        """What an encoder takes.

        Args:
            maps: L padded maps (B, C, h, w), finest first.
            positions: their position embeddings, (B, C, h, w) or (1, C, h, w); none without an encoder.

        Returns:
            Tokens (B, N, C), their positions with the embeddings of levels, (B, N, C) or (1, N, C), which are None
            without an encoder, and where the tokens are.

        Raises:
            ValueError: for another number of maps than L.
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
