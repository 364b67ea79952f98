"""DETR's encoder and decoder (Carion et al., ECCV 2020, figure 10).

Legend: B batch, N cells of the feature map, Q queries, C channels.
Dropout is where the paper's repository has it: on attention weights, on each block's result, inside the FFN.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detrex_lite.layers import FFN, BaseTransformerLayer, MultiheadAttention, TransformerLayerSequence
from detrex_lite.layers.ffn import RELU
from detrex_lite.modeling import xavier_uniform
from detrex_lite.structures import ImageBatch


class _DetrLayers(TransformerLayerSequence):
    """What encoder and decoder share: layers of `blocks`, each with a norm before (pre-norm) or after it.

    Args:
        embed_dim: C.
        num_heads: attention heads.
        feedforward_dim: hidden channels of the FFN.
        dropout: dropout probability.
        num_layers: how many layers.
        pre_norm: normalise before each block.
        activation: makes the activation of the FFN.
    """

    blocks: tuple[str, ...]
    always_normalised: bool  # whether the result is normalised in post-norm order too

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        dropout: float = 0.1,
        num_layers: int = 6,
        pre_norm: bool = False,
        activation: Callable[[], nn.Module] = RELU,
    ):
        pairs = [("norm", block) if pre_norm else (block, "norm") for block in self.blocks]
        layer = BaseTransformerLayer(
            attn=MultiheadAttention(embed_dim, num_heads, attn_drop=dropout, proj_drop=dropout),
            ffn=FFN(embed_dim, feedforward_dim, activation=activation, ffn_drop=dropout),
            norm=nn.LayerNorm(embed_dim),
            operation_order=[operation for pair in pairs for operation in pair],
        )
        super().__init__(layer, num_layers)
        self.post_norm_layer = nn.LayerNorm(embed_dim) if pre_norm or self.always_normalised else None


class DetrTransformerEncoder(_DetrLayers):
    """Self-attention among the cells of the feature map; in pre-norm order there is a norm after the last layer."""

    blocks = ("self_attn", "ffn")
    always_normalised = False

    def cell_position(self, memory: Tensor, pos: Tensor) -> Tensor:
        """The position that a layer adds to the cells (B, N, C) that it gets: here the same, `pos`, for all layers."""
        return pos

    def forward(self, memory: Tensor, *, pos: Tensor, padding: Tensor | None = None) -> Tensor:
        """memory: (B, N, C); pos: (B, N, C) or (1, N, C); padding: (B, N) bool, True = padding. Returns (B, N, C)."""
        for layer in self.layers:
            memory = layer(memory, query_pos=self.cell_position(memory, pos), query_key_padding_mask=padding)
        return memory if self.post_norm_layer is None else self.post_norm_layer(memory)


class DetrTransformerDecoder(_DetrLayers):
    """Queries that attend to each other and to the encoded cells; each layer's result goes through one last norm."""

    blocks = ("self_attn", "cross_attn", "ffn")
    always_normalised = True
    post_norm_layer: nn.LayerNorm

    def forward(
        self, query: Tensor, memory: Tensor, *, query_pos: Tensor, pos: Tensor, padding: Tensor | None = None
    ) -> Tensor:
        """query, query_pos: (B, Q, C); memory, pos: (B, N, C); padding: (B, N) bool. Returns (layers, B, Q, C)."""
        results = []
        for layer in self.layers:
            query = layer(query, memory, query_pos=query_pos, key_pos=pos, key_padding_mask=padding)
            results.append(query)
        return self.post_norm_layer(torch.stack(results))


class DetrTransformer(nn.Module):
    """Encoder and decoder, with Xavier-uniform weights.

    Args:
        encoder: encodes the feature map.
        decoder: turns queries into object embeddings.
    """

    def __init__(self, *, encoder: DetrTransformerEncoder, decoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        xavier_uniform(self)

    def encode(self, feature: ImageBatch, pos: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encode a map, cell by cell.

        Args:
            feature: (B, C, h, w), and its padding.
            pos: (B, C, h, w), or (1, C, h, w) for all images alike.

        Returns:
            The encoded cells (B, N, C), their positions (B, N, C) or (1, N, C), and their padding (B, N) bool or None.
        """
        cells, pos = feature.tensor.flatten(2).transpose(1, 2), pos.flatten(2).transpose(1, 2)
        padding = None if feature.mask is None else feature.mask.flatten(1)
        return self.encoder(cells, pos=pos, padding=padding), pos, padding

    def forward(self, feature: ImageBatch, *, query_embed: Tensor, pos: Tensor) -> Tensor:
        """Encode and decode.

        Args:
            feature, pos: see `encode`.
            query_embed: (Q, C), the learned queries, which act as positions; the content starts at zero.

        Returns:
            (decoder layers, B, Q, C).
        """
        memory, pos, padding = self.encode(feature, pos)
        query_pos = query_embed.expand(len(memory), -1, -1)
        query = torch.zeros_like(query_pos)
        return self.decoder(query, memory, query_pos=query_pos, pos=pos, padding=padding)
