"""PnP-DETR-R101 for 300 epochs.

detrex-lite train projects/pnp_detr/configs/pnp_detr_r101_300ep.py --num-gpus 8
"""

from .models.pnp_detr_r101 import model
from .pnp_detr_r50_300ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/pnp_detr_r101_300ep"
