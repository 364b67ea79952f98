"""Relation-DETR with a ResNet-50 and four feature levels: differences from DINO.

Each idea has a switch: `model.transformer.decoder.relation=None`, `model.transformer.encoder.memory_fusion=None`,
`model.num_queries_one2many=0`. Every detector here supports the relation, as
`model.transformer.decoder.relation`. The paper's weights have `model.num_classes=91`.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import PositionRelation, VarifocalLoss
from detrex_lite.modeling.deformable import HybridBranch, MemoryFusion

model = get_config("projects/dino/configs/models/dino_r50.py").model

model.backbone.freeze_at = 2
model.neck.bias = False
model.transformer.encoder.memory_fusion = L(MemoryFusion)(embed_dim="${....embed_dim}", num_layers="${..num_layers}")
model.transformer.decoder.scale_positions = True
model.transformer.decoder.relation = L(PositionRelation)(num_heads="${...encoder.layer.attn.num_heads}")
model.queries.layout.num_queries_one2many = 0  # the queries of the branch have a decoder pass of their own
model.num_queries_one2many = 1500
model.branch = L(HybridBranch)(
    num_queries="${..num_queries_one2many}",
    num_classes="${..num_classes}",
    embed_dim="${..embed_dim}",
    repeats=6,
)
model.criterion.losses.loss_class = L(VarifocalLoss)(alpha=0.75, gamma=2.0)
model.criterion.losses.loss_giou.eps = 0.0
model.criterion.matcher.costs.giou.eps = 0.0
