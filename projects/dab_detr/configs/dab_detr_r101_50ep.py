"""DAB-DETR-R101 for 50 epochs.

detrex-lite train projects/dab_detr/configs/dab_detr_r101_50ep.py --num-gpus 8

As detrex trains it; see dab_detr_r50_50ep.py.
"""

from .dab_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.dab_detr_r101 import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/dab_detr_r101_50ep"
