"""Deformable DETR with a ResNet-50 that reads its last feature level only."""

from .deformable_detr_r50 import model

model.backbone.out_features = ["res5"]
model.transformer.num_feature_levels = 1
