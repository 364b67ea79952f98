"""Anchor DETR-DC5 with a ResNet-101."""

from .anchor_detr_r50_dc5 import model

model.backbone.depth = 101
