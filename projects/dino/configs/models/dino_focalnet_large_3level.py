"""DINO with a FocalNet-L of three focal levels and four feature levels."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import FocalNet, stage_channels

from .dino_r50 import model

model.backbone = L(FocalNet)(
    embed_dim=192,
    depths=[2, 2, 18, 2],
    focal_levels=[3, 3, 3, 3],
    focal_windows=[5, 5, 5, 5],
    out_indices=[1, 2, 3],
    drop_path_rate=0.3,
    weights=None,
)
model.neck.in_channels = L(stage_channels)(
    embed_dim="${...backbone.embed_dim}", out_indices="${...backbone.out_indices}"
)
