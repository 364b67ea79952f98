"""DINO ConvNeXt-L with four feature levels for 12 epochs, from ImageNet-22k and then -1k at 384x384.

detrex-lite train projects/dino/configs/dino_convnext_large_384_4scale_12ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_convnext_large_384 import model

model.backbone.weights = "fb_in22k_ft_in1k_384"
train.output_dir = "output/dino_convnext_large_384_4scale_12ep"
