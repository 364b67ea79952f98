"""DINO with a ViT-B and a simple feature pyramid of four levels, of strides 8 to 64."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import SimpleFeaturePyramid, TimmBackbone, timm_channels

from .dino_r50 import model

model.backbone = L(TimmBackbone)(model_name="vit_base_patch16_224", out_indices=[-1], weights=None, drop_path_rate=0.1)
model.neck = L(SimpleFeaturePyramid)(
    in_channels=L(timm_channels)(model_name="${...backbone.model_name}", out_indices="${...backbone.out_indices}"),
    out_channels="${..embed_dim}",
    scales=[2, 1, 0.5, 0.25],
)
