"""RT-DETR with a ResNet-50-vd, as its authors train it: the data flow of DINO, with a neck that is the encoder.

`model.transformer.decoder.num_eval_layers=4` is faster and a little less accurate, without retraining.
`model.denoising=None` disables denoising, `model.neck.encoder=None` the attention within the coarsest level (AIFI),
`model.queries.mixed_selection=True` learns contents. Relations of queries and a one-to-many branch are overrides, as
in every detector of the family: `model.transformer.decoder.relation`, `model.num_queries_one2many=1500`.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import (
    FFN,
    MLP,
    BaseTransformerLayer,
    ConvNormAct,
    CSPRepLayer,
    MultiheadAttention,
    MultiScaleDeformableAttention,
)
from detrex_lite.modeling import (
    ContrastiveDenoising,
    DetectionHeads,
    HybridEncoder,
    ImagePreprocessor,
    PResNet,
    QueryLayout,
    TopKPostprocessor,
    VarifocalLoss,
    presnet_channels,
)
from detrex_lite.modeling.deformable import AnchorQueries, DeformableBoxDecoder, MultiScaleTransformer
from detrex_lite.modeling.single_level import SingleLevelEncoder
from detrex_lite.projects.dino.modeling import DINO

_criterion = get_config("common/criterion.py").focal_criterion
_criterion.matcher.costs.giou.eps = 0.0
_criterion.losses.loss_class = L(VarifocalLoss)(alpha=0.75, gamma=2.0)
_criterion.losses.loss_giou.eps = 0.0

_denoising = get_config("common/denoising.py").contrastive
_denoising.embed_padding = True
_denoising.eps = 1e-5

model = L(DINO)(
    backbone=L(PResNet)(depth=50, out_features=["res3", "res4", "res5"], norm="FrozenBN", freeze_at=1, weights=None),
    neck=L(HybridEncoder)(
        in_channels=L(presnet_channels)(depth="${...backbone.depth}", out_features="${...backbone.out_features}"),
        hidden_dim=256,
        encoder=L(SingleLevelEncoder)(
            layer=L(BaseTransformerLayer)(
                attn=L(MultiheadAttention)(
                    embed_dim="${....hidden_dim}", num_heads=8, attn_drop=0.0, proj_drop="${.attn_drop}"
                ),
                ffn=L(FFN)(
                    embed_dim="${....hidden_dim}",
                    feedforward_dim=1024,
                    activation=L(nn.GELU)(),
                    ffn_drop="${..attn.attn_drop}",
                ),
                norm=L(nn.LayerNorm)(normalized_shape="${....hidden_dim}"),
                operation_order=["self_attn", "norm", "ffn", "norm"],
            ),
            num_layers=1,
        ),
        encoder_levels=[-1],
        lateral=L(ConvNormAct)(
            in_channels="${..hidden_dim}", out_channels="${..hidden_dim}", kernel_size=1, activation=L(nn.SiLU)()
        ),
        fusion=L(CSPRepLayer)(out_channels="${..hidden_dim}", num_blocks=3, expansion=1.0, activation=L(nn.SiLU)()),
        downsample=L(ConvNormAct)(
            in_channels="${..hidden_dim}",
            out_channels="${..hidden_dim}",
            kernel_size=3,
            stride=2,
            activation=L(nn.SiLU)(),
        ),
        output=L(ConvNormAct)(in_channels="${..hidden_dim}", out_channels="${...embed_dim}", kernel_size=1),
    ),
    position_embedding=None,
    transformer=L(MultiScaleTransformer)(
        encoder=None,
        decoder=L(DeformableBoxDecoder)(
            layer=get_config("common/layers.py").deformable_decoder_alone,
            num_layers=6,
            num_eval_layers=None,
            relation=None,
            position_head=L(MLP)(
                input_dim=4, hidden_dim=512, output_dim="${....embed_dim}", num_layers=2, activation=L(nn.ReLU)()
            ),
        ),
        embed_dim="${..embed_dim}",
        num_feature_levels=3,
    ),
    queries=L(AnchorQueries)(
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
        look_forward_twice=True,
        share_heads="${..share_heads}",
        for_encoder="${..as_two_stage}",
        norm=None,
        extra=None,
        eps=1e-5,
    ),
    denoising=_denoising,
    embed_dim=256,
    num_classes=80,
    num_queries=300,
    num_queries_one2many=0,
    with_box_refine=True,
    as_two_stage=True,
    share_heads=False,
    aux_loss=True,
    batch_invariant_eval=True,
    preprocess=L(ImagePreprocessor)(pixel_mean=[0.0, 0.0, 0.0], pixel_std=[255.0, 255.0, 255.0], size_divisibility=1),
    criterion=_criterion,
    postprocessor=L(TopKPostprocessor)(num_detections=300, clip_boxes=True),
)
