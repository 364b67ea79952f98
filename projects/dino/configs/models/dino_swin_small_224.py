"""DINO with a Swin-S of windows of 7x7 and four feature levels."""

from .dino_swin_tiny_224 import model

model.backbone.model_name = "swin_small_patch4_window7_224"
model.backbone.drop_path_rate = 0.2
