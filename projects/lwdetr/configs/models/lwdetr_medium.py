"""LW-DETR-medium: a ViT-small."""

from .lwdetr_small import model

model.backbone.embed_dim = 384
