"""Stable-DINO with a Swin-L of windows of 12x12 and four feature levels."""

from detrex_lite.config import get_config

from .stable_dino_r50 import model

_dino = get_config("projects/dino/configs/models/dino_swin_large_384.py").model

model.backbone = _dino.backbone
model.neck.in_channels = _dino.neck.in_channels
