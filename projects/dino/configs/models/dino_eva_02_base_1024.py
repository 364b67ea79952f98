"""DINO with EVA-02-B and a simple feature pyramid of four levels, on images that are padded to 1024x1024."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import EVA02

from .dino_vitdet_base import model

model.backbone.net = L(EVA02)(
    embed_dim=768,
    depth=12,
    num_heads=12,
    hidden_dim=2048,
    window_size=16,
    global_blocks=[2, 5, 8, 11],
    image_size="${..square_size}",
    drop_path_rate=0.1,
    freeze_patch_embed=False,
    activation_checkpointing=False,
)
model.backbone.square_size = 1024
