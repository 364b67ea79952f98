"""DETR with a ResNet-50, as the paper has it."""

from detrex_lite.config import LazyCall as L
from detrex_lite.layers import PositionEmbeddingSine
from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    CrossEntropyCost,
    CrossEntropyLoss,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    ResNet,
    SetCriterion,
    SoftmaxPostprocessor,
)
from detrex_lite.projects.detr.modeling import (
    DETR,
    DetrTransformer,
    DetrTransformerDecoder,
    DetrTransformerEncoder,
)

model = L(DETR)(
    backbone=L(ResNet)(depth=50, out_features=["res5"], norm="FrozenBN", freeze_at=1, weights=None),
    in_feature="res5",
    in_channels=2048,
    position_embedding=L(PositionEmbeddingSine)(num_pos_feats=128, temperature=10000, normalize=True),
    transformer=L(DetrTransformer)(
        encoder=L(DetrTransformerEncoder)(
            embed_dim="${...embed_dim}",
            num_heads=8,
            feedforward_dim=2048,
            dropout=0.1,
            num_layers=6,
            pre_norm=False,
        ),
        decoder=L(DetrTransformerDecoder)(
            embed_dim="${...embed_dim}",
            num_heads="${..encoder.num_heads}",
            feedforward_dim="${..encoder.feedforward_dim}",
            dropout="${..encoder.dropout}",
            num_layers=6,
            pre_norm="${..encoder.pre_norm}",
        ),
    ),
    embed_dim=256,
    num_classes=80,
    num_queries=100,
    aux_loss=True,
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            # L(dict), not a plain dict: detectron2 builds what is inside a call only.
            costs=L(dict)(
                label=L(CrossEntropyCost)(weight=1.0),
                bbox=L(BoxL1Cost)(weight=5.0),
                giou=L(GIoUCost)(weight=2.0),
            )
        ),
        losses=L(dict)(
            loss_class=L(CrossEntropyLoss)(eos_coef=0.1),
            loss_bbox=L(BoxL1Loss)(),
            loss_giou=L(GIoULoss)(),
        ),
        weights=dict(loss_class=1.0, loss_bbox=5.0, loss_giou=2.0),
    ),
    postprocessor=L(SoftmaxPostprocessor)(),
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
)
