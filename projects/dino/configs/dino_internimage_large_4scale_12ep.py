"""DINO InternImage-L with four feature levels for 12 epochs, from ImageNet-22k and then -1k at 384x384.

detrex-lite train projects/dino/configs/dino_internimage_large_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_internimage_large import model

model.backbone.weights = "internimage_l_22kto1k_384.pth"  # https://github.com/OpenGVLab/InternImage
train.output_dir = "output/dino_internimage_large_4scale_12ep"
