"""DINO with ViTDet's ViT-L and simple feature pyramid: four levels, of strides 8 to 64."""

from .dino_vitdet_base import model

model.backbone.net.embed_dim = 1024
model.backbone.net.depth = 24
model.backbone.net.num_heads = 16
model.backbone.net.hidden_dim = 4096
model.backbone.net.global_blocks = [5, 11, 17, 23]
model.backbone.net.drop_path_rate = 0.4
