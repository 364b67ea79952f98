"""DINO with a Swin-L of windows of 12x12 and five feature levels, the finest of stride 4."""

from .dino_swin_large_384 import model

model.backbone.out_indices = [0, 1, 2, 3]
model.transformer.num_feature_levels = 5
