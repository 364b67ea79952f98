"""DINO with a ConvNeXt-L and four feature levels."""

from .dino_convnext_tiny_384 import model

model.backbone.model_name = "convnext_large"
