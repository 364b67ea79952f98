"""DAB-DETR-DC5-R50 with three queries at each anchor, 50 epochs.

detrex-lite train projects/dab_detr/configs/dab_detr_r50_dc5_3patterns_50ep.py --num-gpus 8

As detrex trains it; see dab_detr_r50_50ep.py.
"""

from .dab_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.dab_detr_r50_dc5 import model

model.backbone.weights = "IMAGENET1K_V1"
model.num_patterns = 3
train.output_dir = "output/dab_detr_r50_dc5_3patterns_50ep"
