"""Stable-DINO Swin-L with four feature levels for 24 epochs, from ImageNet-22k.

detrex-lite train projects/stable_dino/configs/stable_dino_swin_large_384_24ep.py --num-gpus 8
"""

from .models.stable_dino_swin_large_384 import model
from .stable_dino_r50_4scale_24ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "ms_in22k"
train.output_dir = "output/stable_dino_swin_large_384_24ep"
