"""Deformable DETR with a ResNet-50-DC5 that uses only its last feature level."""

from .deformable_detr_r50_single_scale import model

model.backbone.dilation = True
