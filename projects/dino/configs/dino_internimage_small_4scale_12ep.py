"""DINO InternImage-S with four feature levels for 12 epochs, from ImageNet-1k.

detrex-lite train projects/dino/configs/dino_internimage_small_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_internimage_small import model

model.backbone.weights = "internimage_s_1k_224.pth"  # https://github.com/OpenGVLab/InternImage
train.output_dir = "output/dino_internimage_small_4scale_12ep"
