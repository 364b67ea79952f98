"""RT-DETR with a ResNet-34-vd: like RT-DETR-R18, with four decoder layers."""

from .rtdetr_r18 import model

model.backbone.depth = 34
model.transformer.decoder.num_layers = 4
