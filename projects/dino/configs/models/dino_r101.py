"""DINO with a ResNet-101 and four feature levels."""

from .dino_r50 import model

model.backbone.depth = 101
