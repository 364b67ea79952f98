"""DETR-DC5: the last stage keeps its resolution. Stem and first stage are frozen, as in the paper's repository."""

from .detr_r50 import model

model.backbone.dilation = True
model.backbone.freeze_at = 2
