"""DAB-DETR with a ResNet-50, as detrex has it."""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import PositionEmbeddingSine
from detrex_lite.modeling import ResNet, TopKPostprocessor
from detrex_lite.projects.dab_detr.modeling import (
    DABDETR,
    DabDetrTransformer,
    DabDetrTransformerDecoder,
    DabDetrTransformerEncoder,
)

model = L(DABDETR)(
    backbone=L(ResNet)(depth=50, out_features=["res5"], norm="FrozenBN", freeze_at=1, weights=None),
    in_feature="res5",
    in_channels=2048,
    position_embedding=L(PositionEmbeddingSine)(num_pos_feats=128, temperature=20, normalize=True),
    transformer=L(DabDetrTransformer)(
        encoder=L(DabDetrTransformerEncoder)(
            embed_dim="${...embed_dim}",
            num_heads=8,
            feedforward_dim=2048,
            dropout=0.0,
            num_layers=6,
        ),
        decoder=L(DabDetrTransformerDecoder)(
            embed_dim="${...embed_dim}",
            num_heads="${..encoder.num_heads}",
            feedforward_dim="${..encoder.feedforward_dim}",
            dropout="${..encoder.dropout}",
            num_layers=6,
            modulate_hw_attn=True,
        ),
    ),
    embed_dim=256,
    num_classes=80,
    num_queries=300,
    anchor_centers="random",
    num_patterns=0,
    aux_loss=True,
    criterion=get_config("common/criterion.py").focal_criterion,
    postprocessor=L(TopKPostprocessor)(num_detections=300),
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
)
