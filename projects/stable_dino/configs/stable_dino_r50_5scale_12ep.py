"""Stable-DINO R50 with five feature levels for 12 epochs.

detrex-lite train projects/stable_dino/configs/stable_dino_r50_5scale_12ep.py --num-gpus 8

The paper reports this training; its repository has no config for it.
"""

from .models.stable_dino_r50_5scale import model
from .stable_dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/stable_dino_r50_5scale_12ep"
