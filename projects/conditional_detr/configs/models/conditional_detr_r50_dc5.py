"""Conditional DETR-DC5: the last stage keeps its resolution. Stem and first stage are frozen, as for DETR-DC5."""

from .conditional_detr_r50 import model

model.backbone.dilation = True
model.backbone.freeze_at = 2
