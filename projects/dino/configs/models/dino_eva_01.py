"""DINO with EVA-01 (a ViT of a billion weights) and a simple feature pyramid: four levels, of strides 8 to 64."""

from .dino_vitdet_base import model

model.backbone.net.embed_dim = 1408
model.backbone.net.depth = 40
model.backbone.net.num_heads = 16
model.backbone.net.hidden_dim = 6144
model.backbone.net.window_size = 16
model.backbone.net.global_blocks = [3, 7, 11, 15, 19, 23, 27, 31, 35, 39]
model.backbone.net.image_size = 1280
model.backbone.net.key_bias = False
model.backbone.net.drop_path_rate = 0.6
model.backbone.net.freeze_patch_embed = True
model.backbone.net.activation_checkpointing = True
