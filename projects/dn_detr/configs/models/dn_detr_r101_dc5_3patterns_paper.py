"""DN-DETR-DC5 with a ResNet-101 and three queries at each anchor, as in the paper's repository."""

from .dn_detr_r50_dc5_3patterns_paper import model

model.backbone.depth = 101
