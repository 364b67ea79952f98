"""Focus-DETR R101 for 12 epochs.

detrex-lite train projects/focus_detr/configs/focus_detr_r101_4scale_12ep.py --num-gpus 8

As detrex trains it; see focus_detr_r50_4scale_12ep.py.
"""

from .focus_detr_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.focus_detr_r101 import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/focus_detr_r101_4scale_12ep"
