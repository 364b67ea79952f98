"""Anchor DETR-DC5 with a ResNet-101 as in the paper's repository, "AnchorDETR-DC5"."""

from .anchor_detr_r50_paper import model

model.backbone.depth = 101
