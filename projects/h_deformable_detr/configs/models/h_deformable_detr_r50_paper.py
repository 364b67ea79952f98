"""H-Deformable DETR with a ResNet-50 as in the paper's repository: differences from detrex's."""

from .h_deformable_detr_r50 import model

model.backbone.freeze_at = 2
model.heads.eps = 1e-5
model.criterion.losses.loss_giou.eps = 0.0
model.criterion.matcher.costs.giou.eps = 0.0
model.postprocessor.num_detections = 100
