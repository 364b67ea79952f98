"""Deformable DETR with a ResNet-50-DC5 that reads its last feature level only."""

from .deformable_detr_r50_single_scale import model

model.backbone.dilation = True
