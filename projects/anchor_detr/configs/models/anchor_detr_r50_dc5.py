"""Anchor DETR-DC5: the last stage keeps its resolution."""

from .anchor_detr_r50 import model

model.backbone.dilation = True
