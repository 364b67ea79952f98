"""RF-DETR-large: RF-DETR-nano with four decoder layers, for 704 x 704 pixels."""

from .rfdetr_nano import model

model.backbone.pretrain_image_size = 704
model.transformer.decoder.num_layers = 4
