"""DINO with EVA-02-B in windows of 32x32 patches, every other block global, on images padded to 1536x1536."""

from .dino_eva_02_base_1024 import model

model.backbone.square_size = 1536
model.backbone.net.window_size = 32
model.backbone.net.global_blocks = [1, 3, 5, 7, 9, 11]
model.backbone.net.activation_checkpointing = True
