"""DINO Swin-L with five feature levels for 36 epochs, from ImageNet-22k and then -1k at 384x384.

detrex-lite train projects/dino/configs/dino_swin_large_384_5scale_36ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_36ep import dataloader, lr_multiplier, optimizer, train
from .dino_swin_large_384_5scale_12ep import model

train.output_dir = "output/dino_swin_large_384_5scale_36ep"
