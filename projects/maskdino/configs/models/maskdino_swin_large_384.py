"""Mask DINO with a Swin-L of windows of 12x12 and five feature levels, the finest of stride 4."""

from detrex_lite.config import get_config

from .maskdino_r50 import model

_swin = get_config("common/swin.py")

model.backbone = _swin.swin_tiny_224
model.backbone.model_name = "swin_large_patch4_window12_384"
model.backbone.out_indices = [0, 1, 2, 3]
model.backbone.drop_path_rate = 0.3
model.neck.in_channels = _swin.channels
model.transformer.num_feature_levels = 5
model.mask_branch.in_channels = _swin.channels
model.mask_branch.in_feature = "stage0"
