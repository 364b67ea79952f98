"""Conditional DETR-DC5 with a ResNet-50 as in the paper's repository."""

from .conditional_detr_r50_paper import model

model.backbone.dilation = True
