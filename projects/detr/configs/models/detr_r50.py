"""DETR with a ResNet-50, as detrex trains it.

Each choice is one key: `model.transformer.encoder.layer.operation_order=[norm,self_attn,norm,ffn]` normalises first,
`model.transformer.encoder.layer.ffn.activation._target_=torch.nn.GELU` changes the activation.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import PositionEmbeddingSine
from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    CrossEntropyCost,
    CrossEntropyLoss,
    DetectionHeads,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    QueryLayout,
    ResNet,
    SetCriterion,
    SoftmaxPostprocessor,
    resnet_channels,
)
from detrex_lite.modeling.single_level import (
    LearnedQueries,
    PositionalDecoder,
    SingleLevelEncoder,
    SingleLevelTransformer,
)
from detrex_lite.projects.detr.modeling import DETR

_layers = get_config("common/layers.py")

model = L(DETR)(
    backbone=L(ResNet)(depth=50, out_features=["res5"], norm="FrozenBN", freeze_at=1, weights=None),
    in_feature="res5",
    in_channels=L(resnet_channels)(depth="${..backbone.depth}", out_features="${..backbone.out_features}"),
    position_embedding=L(PositionEmbeddingSine)(num_pos_feats=128, temperature=10000, normalize=True),
    transformer=L(SingleLevelTransformer)(
        encoder=L(SingleLevelEncoder)(
            layer=_layers.encoder,
            num_layers=6,
        ),
        decoder=L(PositionalDecoder)(
            layer=_layers.decoder,
            num_layers=6,
            relation=None,
        ),
    ),
    queries=L(LearnedQueries)(
        layout=L(QueryLayout)(num_queries="${...num_queries}", num_groups=1, num_queries_one2many=0),
        embed_dim="${..embed_dim}",
    ),
    heads=L(DetectionHeads)(
        embed_dim="${..embed_dim}",
        num_classes="${..num_classes}",
        num_layers="${..transformer.decoder.num_layers}",
        background=True,
        references=False,
        norm=L(nn.LayerNorm)(normalized_shape="${...embed_dim}"),
        extra=None,
    ),
    embed_dim=256,
    num_classes=80,
    num_queries=100,
    aux_loss=True,
    batch_invariant_eval=True,
    preprocess=get_config("common/preprocess.py").imagenet,
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            # L(dict), not a plain dict: detectron2 builds only what is inside a call.
            costs=L(dict)(
                label=L(CrossEntropyCost)(weight=1.0),
                bbox=L(BoxL1Cost)(weight=5.0),
                giou=L(GIoUCost)(weight=2.0, eps=1e-6),
            )
        ),
        losses=L(dict)(
            loss_class=L(CrossEntropyLoss)(eos_coef=0.1),
            loss_bbox=L(BoxL1Loss)(),
            loss_giou=L(GIoULoss)(eps=1e-6),
        ),
        weights=dict(loss_class=1.0, loss_bbox=5.0, loss_giou=2.0),
    ),
    postprocessor=L(SoftmaxPostprocessor)(clip_boxes=True),
)
