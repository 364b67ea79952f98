"""DN-DETR with a ResNet-50 as in the paper's repository: what differs from detrex's, besides padding."""

from .dn_detr_r50 import model

model.backbone.freeze_at = 2
