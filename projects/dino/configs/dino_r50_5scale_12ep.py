"""DINO R50 with five feature levels for 12 epochs.

detrex-lite train projects/dino/configs/dino_r50_5scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_r50_5scale import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/dino_r50_5scale_12ep"
