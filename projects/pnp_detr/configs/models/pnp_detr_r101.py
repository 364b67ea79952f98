"""PnP-DETR with a ResNet-101."""

from .pnp_detr_r50 import model

model.backbone.depth = 101
