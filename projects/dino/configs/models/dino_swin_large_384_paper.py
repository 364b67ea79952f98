"""DINO with a Swin-L of windows of 12x12 and four feature levels as in the paper's repository."""

from .dino_swin_large_384 import model

model.position_embedding.temperature = 20
model.position_embedding.offset = 0.0
model.share_heads = True  # of the decoder's layers; the encoder has its own
