"""Co-DINO Swin-L with five feature levels for 12 epochs, from ImageNet-22k: published box AP 58.9.

detrex-lite train projects/co_detr/configs/co_dino_swin_large_384_5scale_12ep.py --num-gpus 16
"""

from .co_dino_r50_5scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.co_dino_swin_large_384_5scale import model

model.backbone.weights = "ms_in22k"
train.output_dir = "output/co_dino_swin_large_384_5scale_12ep"
