"""DINO with EVA-02-L and a simple feature pyramid of four levels, on images that are padded to 1024x1024."""

from .dino_eva_02_base_1024 import model

model.backbone.net.embed_dim = 1024
model.backbone.net.depth = 24
model.backbone.net.num_heads = 16
model.backbone.net.hidden_dim = 2730
model.backbone.net.global_blocks = [5, 11, 17, 23]
model.backbone.net.drop_path_rate = 0.4
