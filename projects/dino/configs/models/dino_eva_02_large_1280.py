"""DINO with EVA-02-L and a simple feature pyramid of four levels, on images that are padded to 1280x1280."""

from .dino_eva_02_large_1024 import model

model.backbone.square_size = 1280
model.backbone.net.activation_checkpointing = True
