"""DINO with a Swin-T of windows of 7x7 and four feature levels."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import TimmBackbone, timm_channels

from .dino_r50 import model

model.backbone = L(TimmBackbone)(
    model_name="swin_tiny_patch4_window7_224",
    out_indices=[1, 2, 3],
    weights=None,
    drop_path_rate=0.1,
    norm_outputs=True,
)
model.neck.in_channels = L(timm_channels)(
    model_name="${...backbone.model_name}", out_indices="${...backbone.out_indices}"
)
