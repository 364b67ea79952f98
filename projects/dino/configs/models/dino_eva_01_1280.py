"""DINO with EVA-01 and a simple feature pyramid, on images that are padded to 1280x1280."""

from .dino_eva_01 import model

model.backbone.square_size = 1280
