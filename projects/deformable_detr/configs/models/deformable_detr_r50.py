"""Deformable DETR with a ResNet-50 and four feature levels.

`model.with_box_refine=True` refines boxes layer by layer, `model.as_two_stage=True` with it takes queries from the
encoder.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import PositionEmbeddingSine
from detrex_lite.modeling import ChannelMapper, ResNet, TopKPostprocessor, resnet_channels
from detrex_lite.projects.deformable_detr.modeling import (
    DeformableDETR,
    DeformableDetrTransformer,
    DeformableDetrTransformerDecoder,
    DeformableDetrTransformerEncoder,
)

model = L(DeformableDETR)(
    backbone=L(ResNet)(depth=50, out_features=["res3", "res4", "res5"], norm="FrozenBN", freeze_at=1, weights=None),
    neck=L(ChannelMapper)(
        in_channels=L(resnet_channels)(depth="${...backbone.depth}", out_features="${...backbone.out_features}"),
        out_channels="${..embed_dim}",
        num_outs="${..transformer.num_feature_levels}",
        norm=L(nn.GroupNorm)(num_groups=32, num_channels="${...embed_dim}"),
    ),
    position_embedding=L(PositionEmbeddingSine)(num_pos_feats=128, temperature=10000, normalize=True, offset=-0.5),
    transformer=L(DeformableDetrTransformer)(
        encoder=L(DeformableDetrTransformerEncoder)(
            embed_dim="${...embed_dim}",
            num_heads=8,
            feedforward_dim=1024,
            dropout=0.1,
            num_layers=6,
            num_feature_levels="${..num_feature_levels}",
            num_points=4,
        ),
        decoder=L(DeformableDetrTransformerDecoder)(
            embed_dim="${...embed_dim}",
            num_heads="${..encoder.num_heads}",
            feedforward_dim="${..encoder.feedforward_dim}",
            dropout="${..encoder.dropout}",
            num_layers=6,
            num_feature_levels="${..num_feature_levels}",
            num_points="${..encoder.num_points}",
            with_box_refine="${...with_box_refine}",
        ),
        embed_dim="${..embed_dim}",
        num_feature_levels=4,
        as_two_stage="${..as_two_stage}",
        num_proposals="${..num_queries}",
    ),
    embed_dim=256,
    num_classes=80,
    num_queries=300,
    aux_loss=True,
    with_box_refine=False,
    as_two_stage=False,
    criterion=get_config("common/criterion.py").focal_criterion,
    postprocessor=L(TopKPostprocessor)(num_detections=300),
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
)
