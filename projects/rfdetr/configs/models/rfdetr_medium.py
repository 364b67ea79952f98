"""RF-DETR-medium: RF-DETR-nano with four decoder layers, for 576 x 576 pixels."""

from .rfdetr_nano import model

model.backbone.pretrain_image_size = 576
model.transformer.decoder.num_layers = 4
