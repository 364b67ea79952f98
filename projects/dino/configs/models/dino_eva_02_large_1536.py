"""DINO with EVA-02-L, every third block global, on images that are padded to 1536x1536."""

from .dino_eva_02_large_1280 import model

model.backbone.square_size = 1536
model.backbone.net.global_blocks = [2, 5, 8, 11, 14, 17, 20, 23]
model.backbone.net.drop_path_rate = 0.3
