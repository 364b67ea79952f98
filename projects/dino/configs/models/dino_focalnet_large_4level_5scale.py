"""DINO with a FocalNet-L of four focal levels and five feature levels, the finest of stride 4."""

from .dino_focalnet_large_4level import model

model.backbone.out_indices = [0, 1, 2, 3]
model.transformer.num_feature_levels = 5
