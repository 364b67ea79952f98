"""Conditional DETR DC5-R50 for 50 epochs.

detrex-lite train projects/conditional_detr/configs/conditional_detr_r50_dc5_50ep.py --num-gpus 8

As detrex trains it; see conditional_detr_r50_50ep.py.
"""

from .conditional_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.conditional_detr_r50_dc5 import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/conditional_detr_r50_dc5_50ep"
