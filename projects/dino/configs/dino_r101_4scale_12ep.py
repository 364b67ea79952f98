"""DINO R101 with four feature levels for 12 epochs.

detrex-lite train projects/dino/configs/dino_r101_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_r101 import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/dino_r101_4scale_12ep"
