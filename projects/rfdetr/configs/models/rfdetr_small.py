"""RF-DETR-small: RF-DETR-nano with three decoder layers, for 512 x 512 pixels."""

from .rfdetr_nano import model

model.backbone.pretrain_image_size = 512
model.transformer.decoder.num_layers = 3
