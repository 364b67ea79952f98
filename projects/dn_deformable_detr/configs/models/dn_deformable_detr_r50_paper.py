"""DN-Deformable-DETR with a ResNet-50 as in the paper's repository: differences from detrex's, besides padding."""

from .dn_deformable_detr_r50 import model

model.backbone.freeze_at = 2
model.queries.normal_init = True
model.postprocessor.num_detections = 100
