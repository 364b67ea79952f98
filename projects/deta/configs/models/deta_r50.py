"""DETA with a ResNet-50 and five feature levels, as detrex trains it: differences from Deformable DETR.

Each idea has a switch: `model.queries.selection=null`, `model.queries.token_contents=False`, and
models/deta_r50_improved_baseline.py has one-to-one matching.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import NMS, IoUAssigner
from detrex_lite.modeling.deformable import LevelwiseNMS

model = get_config("projects/deformable_detr/configs/models/deformable_detr_r50.py").model

model.backbone.freeze_at = 2
model.transformer.num_feature_levels = 5
model.transformer.encoder.layer.attn.dropout = 0.0
model.transformer.encoder.layer.ffn.feedforward_dim = 2048
model.queries.selection = L(LevelwiseNMS)(iou_threshold=0.9, num_per_level=1000)
model.queries.token_contents = True
model.num_queries = 900
model.with_box_refine = True
model.as_two_stage = True
model.criterion.matcher = L(IoUAssigner)(
    iou_threshold=0.6, num_samples="${...num_queries}", positive_fraction=0.25, max_per_object=4, eps=1e-6
)
model.criterion.matchers = L(dict)(
    _enc=L(IoUAssigner)(iou_threshold=0.7, num_samples=256, positive_fraction=0.5, max_per_object=4, eps=1e-6)
)
model.postprocessor.num_detections = 10000
model.postprocessor.suppression = L(NMS)(iou_threshold=0.7, num_detections=100)
