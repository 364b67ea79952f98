"""DETR-DC5 with a ResNet-50 for panoptic segmentation."""

from .detr_r50_panoptic import model

model.backbone.dilation = True
