"""Relation-DETR with a Swin-L of windows of 7x7 and four feature levels; the layers of its finest maps are frozen."""

from detrex_lite.config import get_config

from .relation_detr_r50 import model

_dino = get_config("projects/dino/configs/models/dino_swin_large_224.py").model

model.backbone = _dino.backbone
model.backbone.norm_outputs = False
model.backbone.frozen = ["patch_embed", "layers.0", "layers.1.downsample"]
model.neck.in_channels = _dino.neck.in_channels
