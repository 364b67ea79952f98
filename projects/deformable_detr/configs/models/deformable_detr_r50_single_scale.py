"""Deformable DETR with a ResNet-50 that uses only its last feature level."""

from .deformable_detr_r50 import model

model.backbone.out_features = ["res5"]
model.transformer.num_feature_levels = 1
