"""RT-DETR with a ResNet-50-vd, scaled down: thinner fusion blocks, and evaluation with three of six decoder layers."""

from .rtdetr_r50 import model

model.neck.fusion.expansion = 0.5
model.transformer.decoder.num_eval_layers = 3
