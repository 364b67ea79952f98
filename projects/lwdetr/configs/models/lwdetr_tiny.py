"""LW-DETR-tiny: a ViT-tiny of six blocks, one feature level, three decoder layers, 100 queries.

Each idea has a switch: `model.queries.layout.num_groups=1` trains without groups, `model.heads.lite_refinement=False`
refines the references from layer to layer, `model.heads._target_=detrex_lite.modeling.DetectionHeads` encodes boxes in
logit space, `model.criterion.losses.loss_class._target_=detrex_lite.modeling.FocalLoss` (with `alpha` and `gamma`
only) trains scores without the overlap.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import FFN, BaseTransformerLayer, MultiheadAttention, MultiScaleDeformableAttention
from detrex_lite.modeling import (
    IoUAwareBCELoss,
    MultiScaleProjector,
    QueryLayout,
    ReparamHeads,
    TopKPostprocessor,
    WindowedViT,
    vit_channels,
)
from detrex_lite.modeling.deformable import DeformableAnchorDecoder, GroupedAnchorQueries, MultiScaleTransformer
from detrex_lite.projects.dino.modeling import DINO

_criterion = get_config("common/criterion.py").focal_criterion
_criterion.losses.loss_class = L(IoUAwareBCELoss)(alpha=0.25, gamma=2.0)
_criterion.losses.loss_giou.eps = 0.0
_criterion.matcher.costs.giou.eps = 0.0

_layer = get_config("common/layers.py").deformable_decoder_alone
_layer.attn[1].num_heads = 16
_layer.attn[1].num_points = 2
_layer.ffn.feedforward_dim = 2048

model = L(DINO)(
    backbone=L(WindowedViT)(
        embed_dim=192,
        depth=6,
        num_heads=12,
        num_windows=4,
        global_blocks=[1, 3, 5],
        out_blocks=[1, 3, 5],
        patch_size=16,
        pretrain_image_size=224,
        drop_path_rate=0.0,
        weights=None,
    ),
    neck=L(MultiScaleProjector)(
        in_channels=L(vit_channels)(
            embed_dim="${...backbone.embed_dim}",
            out_blocks="${...backbone.out_blocks}",
        ),
        out_channels="${..embed_dim}",
        scales=[1.0],
        num_blocks=3,
        norm="BN",
    ),
    position_embedding=None,
    transformer=L(MultiScaleTransformer)(
        encoder=None,
        decoder=L(DeformableAnchorDecoder)(
            layer=_layer,
            num_layers=3,
            relation=None,
            embed_dim="${...embed_dim}",
            scale_positions=False,
            temperature=10000,
        ),
        embed_dim="${..embed_dim}",
        num_feature_levels=1,
    ),
    queries=L(GroupedAnchorQueries)(
        layout=L(QueryLayout)(num_queries="${...num_queries}", num_groups=13),
        embed_dim="${..embed_dim}",
    ),
    heads=L(ReparamHeads)(
        embed_dim="${..embed_dim}",
        num_classes="${..num_classes}",
        num_layers="${..transformer.decoder.num_layers}",
        with_box_refine="${..with_box_refine}",
        lite_refinement=True,
        look_forward_twice=False,
        share_heads="${..share_heads}",
        for_encoder="${..as_two_stage}",
        encoder_groups="${..queries.layout.num_groups}",
        norm=L(nn.LayerNorm)(normalized_shape="${...embed_dim}"),
        extra=None,
    ),
    denoising=None,
    embed_dim=256,
    num_classes=80,
    num_queries=100,
    with_box_refine=True,
    as_two_stage=True,
    share_heads=True,
    aux_loss=True,
    batch_invariant_eval=True,
    preprocess=get_config("common/preprocess.py").imagenet,
    criterion=_criterion,
    postprocessor=L(TopKPostprocessor)(num_detections=100, clip_boxes=True),
)
