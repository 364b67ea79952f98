"""DINO FocalNet-L with three focal levels and four feature levels for 36 epochs, from ImageNet-22k.

detrex-lite train projects/dino/configs/dino_focalnet_large_3level_4scale_36ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_focalnet_large_3level_4scale_12ep import model
from .dino_r50_4scale_36ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/dino_focalnet_large_3level_4scale_36ep"
