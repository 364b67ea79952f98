"""DINO with a ResNet-50 and four feature levels as in the paper's repository: differences from detrex's."""

from .dino_r50 import model

model.backbone.freeze_at = 2
model.position_embedding.temperature = 20
model.position_embedding.offset = 0.0
model.share_heads = True  # of the decoder's layers; the encoder has its own
