"""RT-DETR with a ResNet-34-vd: as with a ResNet-18-vd, with four decoder layers."""

from .rtdetr_r18 import model

model.backbone.depth = 34
model.transformer.decoder.num_layers = 4
