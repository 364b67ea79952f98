"""RT-DETR with a ResNet-101-vd and an encoder of 384 channels."""

from .rtdetr_r50 import model

model.backbone.depth = 101
model.neck.hidden_dim = 384
model.neck.encoder.layer.ffn.feedforward_dim = 2048
