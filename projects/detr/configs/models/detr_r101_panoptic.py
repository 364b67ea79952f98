"""DETR with a ResNet-101 for panoptic segmentation."""

from .detr_r50_panoptic import model

model.backbone.depth = 101
