"""DINO with a FocalNet-L of four focal levels and four feature levels."""

from .dino_focalnet_large_3level import model

model.backbone.focal_levels = [4, 4, 4, 4]
model.backbone.focal_windows = [3, 3, 3, 3]
