"""DINO FocalNet-L with four focal levels and four feature levels for 12 epochs, from ImageNet-22k.

detrex-lite train projects/dino/configs/dino_focalnet_large_4level_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_focalnet_large_4level import model

model.backbone.weights = "focalnet_large_lrf_384_fl4.pth"  # https://github.com/microsoft/FocalNet
train.output_dir = "output/dino_focalnet_large_4level_4scale_12ep"
