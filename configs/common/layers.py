"""Transformer layers, for `model.transformer.encoder.layer` and `model.transformer.decoder.layer`.

A model config takes a layer as a whole and changes single keys: the order of operations, the activation, sizes.
Decoders take their sizes from the encoder.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.layers import (
    FFN,
    BaseTransformerLayer,
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    MultiheadAttention,
    MultiScaleDeformableAttention,
)

_attention_of_decoder = dict(
    embed_dim="${......embed_dim}",
    num_heads="${.....encoder.layer.attn.num_heads}",
    attn_drop="${.....encoder.layer.attn.attn_drop}",
    proj_drop="${.attn_drop}",
)
_rest_of_decoder = dict(
    ffn=L(FFN)(
        embed_dim="${.....embed_dim}",
        feedforward_dim="${....encoder.layer.ffn.feedforward_dim}",
        activation=L(nn.ReLU)(),
        ffn_drop="${....encoder.layer.ffn.ffn_drop}",
    ),
    norm=L(nn.LayerNorm)(normalized_shape="${.....embed_dim}"),
    operation_order=["self_attn", "norm", "cross_attn", "norm", "ffn", "norm"],
)

# Attention among all cells of one feature map (DETR and all other detectors with one map).
encoder = L(BaseTransformerLayer)(
    attn=L(MultiheadAttention)(embed_dim="${.....embed_dim}", num_heads=8, attn_drop=0.1, proj_drop="${.attn_drop}"),
    ffn=L(FFN)(
        embed_dim="${.....embed_dim}",
        feedforward_dim=2048,
        activation=L(nn.ReLU)(),
        ffn_drop="${..attn.attn_drop}",
    ),
    norm=L(nn.LayerNorm)(normalized_shape="${.....embed_dim}"),
    operation_order=["self_attn", "norm", "ffn", "norm"],
)

# Queries attend to each other and to all cells of one feature map (DETR).
decoder = L(BaseTransformerLayer)(
    attn=[L(MultiheadAttention)(**_attention_of_decoder), L(MultiheadAttention)(**_attention_of_decoder)],
    **_rest_of_decoder,
)

# The same, with separate projections of contents and position embeddings (Conditional DETR, DAB-DETR).
conditional_decoder = L(BaseTransformerLayer)(
    attn=[
        L(ConditionalSelfAttention)(**_attention_of_decoder),
        L(ConditionalCrossAttention)(**_attention_of_decoder, add_query_pos=True),
    ],
    **_rest_of_decoder,
)

# Each cell of several feature levels samples a few points (Deformable DETR and its family).
deformable_encoder = L(BaseTransformerLayer)(
    attn=L(MultiScaleDeformableAttention)(
        embed_dim="${.....embed_dim}",
        num_heads=8,
        num_levels="${....num_feature_levels}",
        num_points=4,
        dropout=0.1,
    ),
    ffn=L(FFN)(
        embed_dim="${.....embed_dim}",
        feedforward_dim=1024,
        activation=L(nn.ReLU)(),
        ffn_drop="${..attn.dropout}",
    ),
    norm=L(nn.LayerNorm)(normalized_shape="${.....embed_dim}"),
    operation_order=["self_attn", "norm", "ffn", "norm"],
)

# Queries attend to each other and sample a few points around their references.
deformable_decoder = L(BaseTransformerLayer)(
    attn=[
        L(MultiheadAttention)(
            embed_dim="${......embed_dim}",
            num_heads="${.....encoder.layer.attn.num_heads}",
            attn_drop="${.....encoder.layer.attn.dropout}",
            proj_drop="${.attn_drop}",
        ),
        L(MultiScaleDeformableAttention)(
            embed_dim="${......embed_dim}",
            num_heads="${.....encoder.layer.attn.num_heads}",
            num_levels="${.....num_feature_levels}",
            num_points="${.....encoder.layer.attn.num_points}",
            dropout="${.....encoder.layer.attn.dropout}",
        ),
    ],
    **_rest_of_decoder,
)

# The same with explicit sizes, for detectors without a transformer encoder (RT-DETR, LW-DETR).
deformable_decoder_alone = L(BaseTransformerLayer)(
    attn=[
        L(MultiheadAttention)(embed_dim="${......embed_dim}", num_heads=8, attn_drop=0.0, proj_drop="${.attn_drop}"),
        L(MultiScaleDeformableAttention)(
            embed_dim="${......embed_dim}",
            num_heads=8,
            num_levels="${.....num_feature_levels}",
            num_points=4,
            dropout=0.0,
            sampling="bilinear",
        ),
    ],
    ffn=L(FFN)(embed_dim="${.....embed_dim}", feedforward_dim=1024, activation=L(nn.ReLU)(), ffn_drop=0.0),
    norm=L(nn.LayerNorm)(normalized_shape="${.....embed_dim}"),
    operation_order=["self_attn", "norm", "cross_attn", "norm", "ffn", "norm"],
)
