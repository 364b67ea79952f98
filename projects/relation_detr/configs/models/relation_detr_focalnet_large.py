"""Relation-DETR with a FocalNet-L of four focal levels and five feature levels."""

from detrex_lite.config import get_config

from .relation_detr_r50 import model

_dino = get_config("projects/dino/configs/models/dino_focalnet_large_4level_5scale.py").model

model.backbone = _dino.backbone
model.backbone.normalize_modulator = True
model.neck.in_channels = _dino.neck.in_channels
model.transformer.num_feature_levels = 5
