"""DETR-DC5: the last stage keeps its resolution. Stem and first stage are frozen, as the paper's repository has it."""

from .detr_r50 import model

model.backbone.dilation = True
model.backbone.freeze_at = 2
