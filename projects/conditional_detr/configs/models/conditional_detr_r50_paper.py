"""Conditional DETR with a ResNet-50 as in the paper's repository: differences from detrex's."""

from .conditional_detr_r50 import model

model.backbone.freeze_at = 2
model.transformer.mask_memory_padding = True
model.heads.eps = 1e-5
model.criterion.losses.loss_giou.eps = 0.0
model.criterion.matcher.costs.giou.eps = 0.0
model.postprocessor.num_detections = 100
