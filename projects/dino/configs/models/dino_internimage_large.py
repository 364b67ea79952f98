"""DINO with an InternImage-L and four feature levels."""

from .dino_internimage_small import model

model.backbone.embed_dim = 160
model.backbone.depths = [5, 5, 22, 5]
model.backbone.groups = [10, 20, 40, 80]
model.backbone.offset_scale = 2.0
model.backbone.drop_path_rate = 0.0
