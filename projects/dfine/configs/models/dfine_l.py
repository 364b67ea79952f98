"""D-FINE with HGNetV2-B4, as its authors train it: RT-DETRv2 with boxes whose edges are refined by distributions.

Each idea has a switch: `model.heads.quality=null` (location quality), `model.criterion.union=null` (a match for each
set), `~model.criterion.losses.loss_ddf ~model.criterion.weights.loss_ddf` (self-distillation).
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import GatedAttention, MultiScaleDeformableAttention, RepNCSPELAN, SCDown
from detrex_lite.modeling import (
    DecoupledDistillationFocalLoss,
    DistributionHeads,
    EdgeBins,
    FineGrainedLocalizationLoss,
    HGNetv2,
    LocationQuality,
    MatchUnion,
    hgnetv2_channels,
)

model = get_config("projects/rtdetr/configs/models/rtdetrv2_r50.py").model

model.backbone = L(HGNetv2)(name="B4", out_indices=[1, 2, 3], use_lab=False, norm="FrozenBN", freeze_at=1, weights=None)
model.neck.in_channels = L(hgnetv2_channels)(name="${...backbone.name}", out_indices="${...backbone.out_indices}")
model.neck.lateral.activation = None
model.neck.fusion = L(RepNCSPELAN)(out_channels="${..hidden_dim}", num_blocks=3, expansion=1.0, activation=L(nn.SiLU)())
model.neck.downsample = L(SCDown)(in_channels="${..hidden_dim}", out_channels="${..hidden_dim}")
model.neck.output = None  # the maps already have the width of the decoder

_decoder = model.transformer.decoder
_decoder.layer.attn[1] = L(GatedAttention)(
    attention=L(MultiScaleDeformableAttention)(
        embed_dim="${..embed_dim}",
        num_heads=8,
        num_levels="${......num_feature_levels}",
        num_points=[3, 6, 3],
        dropout=0.0,
        sampling="bilinear",
        value_proj=False,
        output_proj=False,
    ),
    embed_dim="${......embed_dim}",
)
_decoder.layer.operation_order = ["self_attn", "norm", "cross_attn", "ffn", "norm"]
_decoder.position_limit = 10.0

model.heads._target_ = DistributionHeads
model.heads.look_forward_twice = False
model.heads.bins = L(EdgeBins)(reg_max=32, reg_scale=4.0, up=0.5)
model.heads.quality = L(LocationQuality)(topk=4, hidden_dim=64, activation=L(nn.ReLU)())
model.heads.activation = L(nn.ReLU)()

model.criterion.losses.loss_fgl = L(FineGrainedLocalizationLoss)(bins="${....heads.bins}")
model.criterion.losses.loss_ddf = L(DecoupledDistillationFocalLoss)(temperature=5.0)
model.criterion.weights.loss_fgl = 0.15
model.criterion.weights.loss_ddf = 1.5
# "_pre" is the set of the boxes that the first layer regresses directly.
model.criterion.union = L(MatchUnion)(
    losses=["loss_bbox", "loss_giou", "loss_fgl", "loss_ddf"], sets=["", "_pre", "_enc"]
)
