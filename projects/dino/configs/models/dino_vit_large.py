"""DINO with a ViT-L and a simple feature pyramid of four levels, of strides 8 to 64."""

from .dino_vit_base import model

model.backbone.model_name = "vit_large_patch16_224"
model.backbone.drop_path_rate = 0.4
