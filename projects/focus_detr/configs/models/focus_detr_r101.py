"""Focus-DETR with a ResNet-101."""

from .focus_detr_r50 import model

model.backbone.depth = 101
