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
    Linear,
    MultiheadAttention,
    MultiScaleDeformableAttention,
    TransformerLayerSequence,
    get_sine_pos_embed,
)
from detrex_lite.modeling import (
    DenoisingQueries,
    EncoderProposals,
    Predictions,
    TokenLevels,
    flatten_maps,
    refine,
    take_best,
    xavier_uniform,
)
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
        with_box_refine: each layer's boxes, without their gradients, are the next layer's references; without it all
            layers predict relative to the first references.
        look_forward_twice: with refinement, the loss of a layer's boxes also teaches the layer before, whose boxes
            they refine (DINO, Zhang et al., ICLR 2023, section 3.5); what the next layer attends to stays the same.
        with_norm: normalise queries, by one norm for all layers, before they are returned and boxes are predicted;
            what the next layer gets and refers to is not normalised.

    Raises:
        ValueError: for looking forward twice without refinement.
    """

    norm: nn.LayerNorm | None

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
        look_forward_twice: bool = False,
        with_norm: bool = False,
    ):
        if look_forward_twice and not with_box_refine:
            raise ValueError("look_forward_twice=True needs with_box_refine=True: it is about boxes that layers refine")
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
        self.look_forward_twice = look_forward_twice
        self.norm = nn.LayerNorm(embed_dim) if with_norm else None

    def query_position(
        self, query: Tensor, query_pos: Tensor | None, reference: Tensor, levels: TokenLevels, *, first: bool
    ) -> Tensor | None:
        """The position that a layer adds to its queries: here the same for all layers.

        Args:
            query: (B, Q, C), what the layer gets.
            query_pos: (B, Q, C), as given to `forward`.
            reference: (B, Q, 2) or (B, Q, 4), that of the layer.
            levels: where the memory's tokens are.
            first: whether this is the first layer.

        Returns:
            (B, Q, C).
        """
        return query_pos

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        *,
        query_pos: Tensor | None,
        reference: Tensor,
        levels: TokenLevels,
        box_heads: Sequence[nn.Module],
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            query: (B, Q, C).
            memory: (B, N, C), the encoder's result.
            query_pos: (B, Q, C); None when `query_position` makes positions of something else.
            reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1 of each image.
            levels: where the memory's tokens are.
            box_heads: for each layer, queries (B, Q, C) to box offsets (B, Q, 4).
            attn_mask: which queries do not attend to which, as `MultiheadAttention` takes it.

        Returns:
            Queries (layers, B, Q, C) and boxes (layers, B, Q, 4) cxcywh in 0..1 after each layer.
        """
        queries, boxes = [], []
        before = reference  # the same boxes, with the gradients that the loss of the layer's boxes sends on
        for index, (layer, box_head) in enumerate(zip(self.layers, box_heads, strict=False)):
            inputs = {"reference_points": levels.in_maps(reference), "spatial_shapes": levels.spatial_shapes}
            query = layer(
                query,
                memory,
                query_pos=self.query_position(query, query_pos, reference, levels, first=index == 0),
                self_attn_mask=attn_mask,
                key_padding_mask=levels.padding,
                cross_attn_inputs=inputs,
            )
            offsets = box_head(query)
            queries.append(query if self.norm is None else self.norm(query))
            boxes.append(refine(offsets if self.norm is None else box_head(queries[-1]), before))
            if self.with_box_refine:
                moved = refine(offsets, reference)
                reference = moved.detach()
                before = moved if self.look_forward_twice else reference
        return torch.stack(queries), torch.stack(boxes)


class StartingQueries(NamedTuple):
    """What the decoder begins with.

    Attributes:
        content: (B, Q, C).
        position: (B, Q, C); None when the decoder makes positions of references.
        reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes, in 0..1 of each image.
        proposals: the encoder's predictions that are trained; None without two stages.
        attn_mask: which queries do not attend to which, as `MultiheadAttention` takes it.
    """

    content: Tensor
    position: Tensor | None
    reference: Tensor
    proposals: Predictions | None = None
    attn_mask: Tensor | None = None

    def after(self, denoising: DenoisingQueries) -> "StartingQueries":
        """Denoising queries, then these, whose positions must be made of references."""
        return self._replace(
            content=torch.cat([denoising.content, self.content], dim=1),
            reference=torch.cat([denoising.boxes, self.reference], dim=1),
            attn_mask=denoising.attn_mask(self.content.shape[1]),
        )


class DecodedQueries(NamedTuple):
    """What the transformer returns.

    Attributes:
        queries: (layers, B, Q, C), those of denoising first.
        boxes: (layers, B, Q, 4) cxcywh in 0..1.
        proposals: the encoder's predictions that are trained; None without two stages.
    """

    queries: Tensor
    boxes: Tensor
    proposals: Predictions | None


class DeformableDetrTransformer(nn.Module):
    """Encoder and decoder; the decoder's queries are learned, or made of the encoder's best proposals.

    A detector with other queries writes `add_start` and `start`.

    Args:
        encoder: encodes the tokens of all levels.
        decoder: turns queries into object embeddings and boxes.
        embed_dim: C.
        num_feature_levels: L.
        as_two_stage: take queries from proposals.
        num_proposals: how many, with two stages.
    """

    # Whether proposals are trained to tell objects from background, whatever the objects' classes.
    class_agnostic_proposals = True

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
        self.add_start()
        self.reset_parameters()

    def add_start(self) -> None:
        """Make the layers that `start` uses, besides `encoder_proposals`."""
        if self.encoder_proposals is not None:
            self.pos_trans = Linear(2 * self.embed_dim, 2 * self.embed_dim)
            self.pos_trans_norm = nn.LayerNorm(2 * self.embed_dim)
        else:
            self.reference_points = Linear(self.embed_dim, 2)
            nn.init.zeros_(self.reference_points.bias)

    def reset_parameters(self) -> None:
        """Xavier-uniform weights but in deformable attention, as the paper's repository."""
        xavier_uniform(self)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.reset_parameters()
        nn.init.normal_(self.level_embeds)

    def forward(
        self,
        maps: Sequence[ImageBatch],
        positions: Sequence[Tensor],
        *,
        learned: tuple[Tensor, Tensor] | None,
        class_heads: Sequence[nn.Module],
        box_heads: Sequence[nn.Module],
        denoising: DenoisingQueries | None = None,
    ) -> DecodedQueries:
        """Encode and decode.

        Args:
            maps: L padded maps (B, C, h, w), finest first.
            positions: their position embeddings, (B, C, h, w) or (1, C, h, w).
            learned: contents (Q, C) and positions (Q, C) of learned queries; None with two stages.
            class_heads, box_heads: for each decoder layer, and with two stages one more for the encoder.
            denoising: queries that come before the others.
        """
        levels = TokenLevels.from_maps(maps)
        pos = flatten_maps([one + self.level_embeds[level, :, None, None] for level, one in enumerate(positions)])
        memory = self.encoder(flatten_maps([one.tensor for one in maps]), pos=pos, levels=levels)
        start = self.start(memory, levels, learned, class_heads, box_heads)
        if denoising is not None:
            start = start.after(denoising)
        queries, boxes = self.decoder(
            start.content,
            memory,
            query_pos=start.position,
            reference=start.reference,
            levels=levels,
            box_heads=box_heads,
            attn_mask=start.attn_mask,
        )
        return DecodedQueries(queries, boxes, start.proposals)

    def start(
        self,
        memory: Tensor,
        levels: TokenLevels,
        learned: tuple[Tensor, Tensor] | None,
        class_heads: Sequence[nn.Module],
        box_heads: Sequence[nn.Module],
    ) -> StartingQueries:
        """The queries that the decoder begins with, of what is learned or of the memory (B, N, C); see `forward`."""
        if self.encoder_proposals is None:
            content, position = (one.expand(len(memory), -1, -1) for one in learned)
            return StartingQueries(content, position, self.reference_points(position).sigmoid())
        found = self.encoder_proposals(memory, levels, class_heads[-1], box_heads[-1])
        proposals = Predictions(found.logits, found.box_logits.sigmoid())
        # The score for "some object" is the first class, which these predictions are trained for.
        scores = found.logits[..., 0]
        reference = take_best(proposals.boxes, scores, self.num_proposals, padding=self.avoided(levels)).detach()
        embedding = get_sine_pos_embed(reference, self.embed_dim // 2, exchange_xy=False)
        position, content = self.pos_trans_norm(self.pos_trans(embedding)).chunk(2, dim=-1)
        return StartingQueries(content, position, reference, proposals)

    def avoided(self, levels: TokenLevels) -> Tensor | None:
        """Tokens that become queries only when there is nothing else: (B, N) bool, True = avoided, or None.

        Training takes padding like any token, as published; detections must not depend on how much there is of it.
        """
        return None if self.training else levels.padding
