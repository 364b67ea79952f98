"""Anchor DETR with a ResNet-101."""

from .anchor_detr_r50 import model

model.backbone.depth = 101
