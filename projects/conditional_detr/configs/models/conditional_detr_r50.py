"""Conditional DETR with a ResNet-50, as detrex has it: what differs from DETR."""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import FFN, BaseTransformerLayer, ConditionalCrossAttention, ConditionalSelfAttention
from detrex_lite.modeling import TopKPostprocessor
from detrex_lite.modeling.single_level import ConditionalDecoder

model = get_config("projects/detr/configs/models/detr_r50.py").model

model.transformer.decoder = L(ConditionalDecoder)(
    layer=L(BaseTransformerLayer)(
        attn=[
            L(ConditionalSelfAttention)(
                embed_dim="${......embed_dim}",
                num_heads="${.....encoder.layer.attn.num_heads}",
                attn_drop="${.....encoder.layer.attn.attn_drop}",
                proj_drop="${.attn_drop}",
            ),
            L(ConditionalCrossAttention)(
                embed_dim="${......embed_dim}",
                num_heads="${.....encoder.layer.attn.num_heads}",
                attn_drop="${.....encoder.layer.attn.attn_drop}",
                proj_drop="${.attn_drop}",
                add_query_pos=True,
            ),
        ],
        ffn=L(FFN)(
            embed_dim="${.....embed_dim}",
            feedforward_dim="${....encoder.layer.ffn.feedforward_dim}",
            activation=L(nn.ReLU)(),
            ffn_drop="${....encoder.layer.ffn.ffn_drop}",
        ),
        norm=L(nn.LayerNorm)(normalized_shape="${.....embed_dim}"),
        operation_order=["self_attn", "norm", "cross_attn", "norm", "ffn", "norm"],
    ),
    num_layers=6,
    embed_dim="${...embed_dim}",
    temperature=10000,
)
model.num_queries = 300
model.heads.background = False
model.heads.references = True
model.criterion = get_config("common/criterion.py").focal_criterion
model.criterion.weights.loss_class = 2.0
model.postprocessor = L(TopKPostprocessor)(num_detections=300)
# As detrex trains: its decoder attends to padding. Detections do not depend on padding either way.
model.transformer.mask_memory_padding = False
