"""Co-DINO R50 with four feature levels for 12 epochs; no results are published.

detrex-lite train projects/co_detr/configs/co_dino_r50_4scale_12ep.py --num-gpus 8
"""

from .co_dino_r50_5scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.co_dino_r50 import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/co_dino_r50_4scale_12ep"
