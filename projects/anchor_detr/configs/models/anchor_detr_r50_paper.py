"""Anchor DETR with a ResNet-50 as the paper's repository has it by default, which is DC5: "AnchorDETR-DC5"."""

from .anchor_detr_r50_c5_paper import model

model.backbone.dilation = True
