"""LW-DETR-xlarge: a ViT-base."""

from .lwdetr_large import model

model.backbone.embed_dim = 768
