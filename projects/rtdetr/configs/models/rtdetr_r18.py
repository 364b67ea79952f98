"""RT-DETR with a ResNet-18-vd, with trained norms: three decoder layers, and half the channels in fusion blocks."""

from .rtdetr_r50 import model

model.backbone.depth = 18
model.backbone.norm = "BN"
model.backbone.freeze_at = 0
model.neck.fusion.expansion = 0.5
model.transformer.decoder.num_layers = 3
