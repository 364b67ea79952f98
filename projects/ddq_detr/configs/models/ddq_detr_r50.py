"""DDQ-DETR with a ResNet-50 and four feature levels: differences from DINO.

Each idea has a switch: `model.queries.selection=null`; `model.transformer.decoder.iou_threshold=1.0` keeps all
queries; models/ddq_detr_r50_no_dense.py has no dense branch.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import AlignmentFocalLoss, AlignmentGIoULoss, DetectionHeads
from detrex_lite.modeling.deformable import DenseBranch, DistinctProposals, DistinctQueryDecoder

model = get_config("projects/dino/configs/models/dino_r50.py").model

model.backbone.freeze_at = 2
model.neck.bias = False
model.position_embedding.temperature = 20
model.position_embedding.offset = 0.0
model.transformer.decoder._target_ = DistinctQueryDecoder
model.transformer.decoder.iou_threshold = 0.8
model.queries.mixed_selection = False
model.queries.project_contents = True
model.queries.selection = L(DistinctProposals)(iou_threshold=0.8)
model.branch = L(DenseBranch)(
    num_queries="${..num_queries}",
    ratio=1.5,
    heads=L(DetectionHeads)(
        embed_dim="${...embed_dim}",
        num_classes="${...num_classes}",
        num_layers="${...transformer.decoder.num_layers}",
        with_box_refine=True,
        look_forward_twice="${...heads.look_forward_twice}",
        for_encoder=True,
        eps="${...heads.eps}",
    ),
)
model.criterion.losses.loss_giou.eps = 0.0
model.criterion.matcher.costs.giou.eps = 0.0
_one_to_four = dict(model.criterion.matcher) | {"candidates": 4}
_dense = L(dict)(loss_class=L(AlignmentFocalLoss)(gamma=2.0), loss_giou=L(AlignmentGIoULoss)())
model.criterion.matchers = L(dict)(_dense=_one_to_four, _enc_dense=_one_to_four)
model.criterion.own_losses = L(dict)(_dense=_dense, _enc_dense=_dense)
