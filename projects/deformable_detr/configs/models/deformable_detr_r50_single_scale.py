"""Deformable DETR with a ResNet-50 that reads its last feature level only."""

from .deformable_detr_r50 import model

model.backbone.out_features = ["res5"]
model.neck.in_channels = {"res5": 2048}
model.transformer.num_feature_levels = 1
