"""Co-DINO with a ResNet-50 and five feature levels, the finest of stride 4, as published."""

from .co_dino_r50 import model

model.backbone.out_features = ["res2", "res3", "res4", "res5"]
model.transformer.num_feature_levels = 5
model.collaboration.finest_stride = 4
