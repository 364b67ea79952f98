"""DETR-DC5 with a ResNet-50 as in the paper's repository."""

from .detr_r50_paper import model

model.backbone.dilation = True
