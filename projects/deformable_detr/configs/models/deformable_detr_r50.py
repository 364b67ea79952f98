"""Deformable DETR with a ResNet-50 and four feature levels, as detrex trains it.

`model.with_box_refine=True` refines boxes layer by layer; if `model.as_two_stage=True` is set as well, queries are
the encoder's best proposals.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import PositionEmbeddingSine
from detrex_lite.modeling import ChannelMapper, DetectionHeads, QueryLayout, ResNet, TopKPostprocessor, resnet_channels
from detrex_lite.modeling.deformable import (
    DeformableDecoder,
    DeformableEncoder,
    DeformableQueries,
    MultiScaleTransformer,
)
from detrex_lite.projects.deformable_detr.modeling import DeformableDETR

_layers = get_config("common/layers.py")

model = L(DeformableDETR)(
    backbone=L(ResNet)(depth=50, out_features=["res3", "res4", "res5"], norm="FrozenBN", freeze_at=1, weights=None),
    neck=L(ChannelMapper)(
        in_channels=L(resnet_channels)(depth="${...backbone.depth}", out_features="${...backbone.out_features}"),
        out_channels="${..embed_dim}",
        num_outs="${..transformer.num_feature_levels}",
        bias=True,
        norm=L(nn.GroupNorm)(num_groups=32, num_channels="${...embed_dim}"),
    ),
    position_embedding=L(PositionEmbeddingSine)(num_pos_feats=128, temperature=10000, normalize=True, offset=-0.5),
    transformer=L(MultiScaleTransformer)(
        encoder=L(DeformableEncoder)(
            layer=_layers.deformable_encoder,
            num_layers=6,
            memory_fusion=None,
        ),
        decoder=L(DeformableDecoder)(
            layer=_layers.deformable_decoder,
            num_layers=6,
            relation=None,
        ),
        embed_dim="${..embed_dim}",
        num_feature_levels=4,
    ),
    queries=L(DeformableQueries)(
        layout=L(QueryLayout)(
            num_queries="${...num_queries}",
            num_groups=1,
            num_queries_one2many="${...num_queries_one2many}",
            one2many_repeats=6,
            one2many_weight=1.0,
        ),
        embed_dim="${..embed_dim}",
        as_two_stage="${..as_two_stage}",
        mixed_selection=False,
    ),
    heads=L(DetectionHeads)(
        embed_dim="${..embed_dim}",
        num_classes="${..num_classes}",
        num_layers="${..transformer.decoder.num_layers}",
        with_box_refine="${..with_box_refine}",
        look_forward_twice=False,
        share_heads="${..share_heads}",
        for_encoder="${..as_two_stage}",
        norm=None,
        initial_size=-2.0,
        extra=None,
        eps=1e-3,
    ),
    embed_dim=256,
    num_classes=80,
    num_queries=300,
    num_queries_one2many=0,
    with_box_refine=False,
    as_two_stage=False,
    share_heads=None,
    aux_loss=True,
    batch_invariant_eval=True,
    preprocess=get_config("common/preprocess.py").imagenet,
    criterion=get_config("common/criterion.py").focal_criterion,
    postprocessor=L(TopKPostprocessor)(num_detections=300, clip_boxes=True),
)
