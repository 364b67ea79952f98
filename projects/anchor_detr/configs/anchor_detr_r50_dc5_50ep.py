"""Anchor DETR DC5-R50 for 50 epochs.

detrex-lite train projects/anchor_detr/configs/anchor_detr_r50_dc5_50ep.py --num-gpus 8

As detrex trains it; see anchor_detr_r50_50ep.py.
"""

from .anchor_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.anchor_detr_r50_dc5 import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/anchor_detr_r50_dc5_50ep"
