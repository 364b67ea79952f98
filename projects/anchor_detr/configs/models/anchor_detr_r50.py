"""Anchor DETR with a ResNet-50, as detrex trains it: differences from DETR.

For attention among all cells, which is the baseline of the paper, set `model.position_embedding.decoupled=False` and
`detrex_lite.layers.MultiheadAttention` as the `_target_` of `model.transformer.encoder.layer.attn` and of
`model.transformer.decoder.layer.attn[1]`, with a `PositionalDecoder`.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import RowColumnDecoupledAttention
from detrex_lite.modeling import QueryLayout, TopKPostprocessor
from detrex_lite.modeling.single_level import LearnedPoints, PointDecoder
from detrex_lite.projects.anchor_detr.modeling import AnchorDETR, PointPositionEmbedding

model = get_config("projects/detr/configs/models/detr_r50.py").model

model._target_ = AnchorDETR
model.backbone.freeze_at = 2
model.input_norm = L(nn.GroupNorm)(num_groups=32, num_channels="${..embed_dim}")
model.position_embedding = L(PointPositionEmbedding)(num_pos_feats=128, temperature=10000, decoupled=True)

model.transformer.encoder.layer.attn._target_ = RowColumnDecoupledAttention
model.transformer.encoder.layer.attn.attn_drop = 0.0
model.transformer.encoder.layer.ffn.feedforward_dim = 1024
model.transformer.decoder._target_ = PointDecoder
model.transformer.decoder.layer.attn[1]._target_ = RowColumnDecoupledAttention

model.num_queries = 300
model.num_patterns = 3
model.queries = L(LearnedPoints)(
    layout=L(QueryLayout)(num_queries="${...num_queries}", num_groups=1, num_queries_one2many=0),
    embed_dim="${..embed_dim}",
    num_patterns="${..num_patterns}",
    points="learned",
)
model.heads.background = False
model.heads.references = True
model.heads.initial_size = -2.0
model.heads.norm = None
model.criterion = get_config("common/criterion.py").focal_criterion
model.criterion.weights.loss_class = 2.0
model.postprocessor = L(TopKPostprocessor)(num_detections=100, clip_boxes=True)
