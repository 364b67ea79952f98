"""Conditional DETR-DC5 with a ResNet-101."""

from .conditional_detr_r50_dc5 import model

model.backbone.depth = 101
