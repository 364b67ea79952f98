"""DINO with an InternImage-B and four feature levels."""

from .dino_internimage_small import model

model.backbone.embed_dim = 112
model.backbone.groups = [7, 14, 28, 56]
