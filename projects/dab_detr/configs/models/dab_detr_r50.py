"""DAB-DETR with a ResNet-50, as detrex has it."""

from detrex_lite.config import LazyCall as L
from detrex_lite.layers import PositionEmbeddingSine
from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    FocalCost,
    FocalLoss,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    ResNet,
    SetCriterion,
    TopKPostprocessor,
)
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
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            costs=L(dict)(
                label=L(FocalCost)(weight=2.0, alpha=0.25, gamma=2.0),
                bbox=L(BoxL1Cost)(weight=5.0),
                giou=L(GIoUCost)(weight=2.0),
            )
        ),
        losses=L(dict)(
            loss_class=L(FocalLoss)(alpha=0.25, gamma=2.0),
            loss_bbox=L(BoxL1Loss)(),
            loss_giou=L(GIoULoss)(),
        ),
        weights=dict(loss_class=1.0, loss_bbox=5.0, loss_giou=2.0),
    ),
    postprocessor=L(TopKPostprocessor)(num_detections=300),
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
)
