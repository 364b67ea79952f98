"""DINO with an InternImage-S and four feature levels."""

from .dino_internimage_tiny import model

model.backbone.embed_dim = 80
model.backbone.depths = [4, 4, 21, 4]
model.backbone.groups = [5, 10, 20, 40]
model.backbone.post_norm = True
