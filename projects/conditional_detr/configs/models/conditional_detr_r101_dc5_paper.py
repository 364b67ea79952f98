"""Conditional DETR-DC5 with a ResNet-101 as in the paper's repository."""

from .conditional_detr_r50_dc5_paper import model

model.backbone.depth = 101
