"""DINO with ViTDet's ViT-B and simple feature pyramid: four levels, of strides 8 to 64."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import SimpleFeaturePyramid, ViTDet, pyramid_channels

from .dino_r50 import model

model.backbone = L(SimpleFeaturePyramid)(
    net=L(ViTDet)(
        embed_dim=768,
        depth=12,
        num_heads=12,
        hidden_dim=3072,
        window_size=14,
        global_blocks=[2, 5, 8, 11],
        image_size=1024,
        key_bias=True,
        drop_path_rate=0.1,
        freeze_patch_embed=False,
        activation_checkpointing=False,
    ),
    out_channels=256,
    scales=[2, 1, 0.5],
    subsampled_levels=1,
    square_size=0,
    weights=None,
)
model.neck.in_channels = L(pyramid_channels)(
    out_channels="${...backbone.out_channels}",
    scales="${...backbone.scales}",
    subsampled_levels="${...backbone.subsampled_levels}",
)
