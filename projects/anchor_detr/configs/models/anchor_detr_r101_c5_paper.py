"""Anchor DETR with a ResNet-101 as in the paper's repository, "AnchorDETR-C5"."""

from .anchor_detr_r50_c5_paper import model

model.backbone.depth = 101
