"""DAB-DETR with a ResNet-50, as detrex trains it, but its decoder does not attend to padding, as in the paper.

`model.transformer.mask_memory_padding=False` reproduces detrex.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import MLP, PositionEmbeddingSine
from detrex_lite.modeling import DetectionHeads, QueryLayout, ResNet, TopKPostprocessor, resnet_channels
from detrex_lite.modeling.single_level import (
    AnchorDecoder,
    LearnedAnchors,
    SingleLevelEncoder,
    SingleLevelTransformer,
)
from detrex_lite.projects.dab_detr.modeling import DABDETR

_layers = get_config("common/layers.py")
_layers.encoder.attn.attn_drop = 0.0
_layers.encoder.ffn.activation = L(nn.PReLU)()
_layers.conditional_decoder.ffn.activation = L(nn.PReLU)()

model = L(DABDETR)(
    backbone=L(ResNet)(depth=50, out_features=["res5"], norm="FrozenBN", freeze_at=1, weights=None),
    in_feature="res5",
    in_channels=L(resnet_channels)(depth="${..backbone.depth}", out_features="${..backbone.out_features}"),
    position_embedding=L(PositionEmbeddingSine)(num_pos_feats=128, temperature=20, normalize=True),
    transformer=L(SingleLevelTransformer)(
        encoder=L(SingleLevelEncoder)(
            layer=_layers.encoder,
            num_layers=6,
            position_scale=L(MLP)(
                input_dim="${....embed_dim}", hidden_dim="${.input_dim}", output_dim="${.input_dim}", num_layers=2
            ),
        ),
        decoder=L(AnchorDecoder)(
            layer=_layers.conditional_decoder,
            num_layers=6,
            relation=None,
            embed_dim="${...embed_dim}",
            modulate_hw_attn=True,
            temperature=10000,
        ),
        mask_memory_padding=True,
    ),
    queries=L(LearnedAnchors)(
        layout=L(QueryLayout)(num_queries="${...num_queries}", num_groups=1, num_queries_one2many=0),
        embed_dim="${..embed_dim}",
        centers="random",
        num_patterns="${..num_patterns}",
        normal_init=False,
    ),
    heads=L(DetectionHeads)(
        embed_dim="${..embed_dim}",
        num_classes="${..num_classes}",
        num_layers="${..transformer.decoder.num_layers}",
        with_box_refine=True,
        look_forward_twice=True,
        share_heads=True,
        norm=L(nn.LayerNorm)(normalized_shape="${...embed_dim}"),
        extra=None,
    ),
    embed_dim=256,
    num_classes=80,
    num_queries=300,
    num_patterns=0,
    aux_loss=True,
    batch_invariant_eval=True,
    preprocess=get_config("common/preprocess.py").imagenet,
    criterion=get_config("common/criterion.py").focal_criterion,
    postprocessor=L(TopKPostprocessor)(num_detections=300, clip_boxes=True),
)
