"""DINO with a ConvNeXt-T and four feature levels: differences from a Swin-T."""

from .dino_swin_tiny_224 import model

model.backbone.model_name = "convnext_tiny"
model.backbone.drop_path_rate = 0.0
