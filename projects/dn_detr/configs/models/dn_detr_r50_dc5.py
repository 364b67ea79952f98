"""DN-DETR-DC5: the last stage keeps its resolution. Stem and first stage are frozen, as in DAB-DETR-DC5."""

from .dn_detr_r50 import model

model.backbone.dilation = True
model.backbone.freeze_at = 2
