"""DINO with an InternImage-T and four feature levels."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import InternImage, stage_channels

from .dino_r50 import model

model.backbone = L(InternImage)(
    embed_dim=64,
    depths=[4, 4, 18, 4],
    groups=[4, 8, 16, 32],
    post_norm=False,
    offset_scale=1.0,
    out_indices=[1, 2, 3],
    drop_path_rate=0.1,
    activation_checkpointing=False,
    weights=None,
)
model.neck.in_channels = L(stage_channels)(
    embed_dim="${...backbone.embed_dim}", out_indices="${...backbone.out_indices}"
)
