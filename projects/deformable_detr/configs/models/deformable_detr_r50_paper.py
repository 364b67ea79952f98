"""Deformable DETR with a ResNet-50 and four feature levels as in the paper's repository: differences from detrex's.

The variants of the paper are `model.with_box_refine=True`, and this together with `model.as_two_stage=True`.
"""

from .deformable_detr_r50 import model

model.backbone.freeze_at = 2
model.heads.eps = 1e-5
model.criterion.losses.loss_giou.eps = 0.0
model.criterion.matcher.costs.giou.eps = 0.0
model.criterion.weights.loss_class = 2.0
model.postprocessor.num_detections = 100
