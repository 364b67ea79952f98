"""DINO with a ResNet-50 and five feature levels as in the paper's repository."""

from .dino_r50_paper import model

model.backbone.out_features = ["res2", "res3", "res4", "res5"]
model.transformer.num_feature_levels = 5
