"""DETR with a ResNet-101 as in the paper's repository."""

from .detr_r50_paper import model

model.backbone.depth = 101
