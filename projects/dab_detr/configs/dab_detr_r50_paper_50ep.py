"""DAB-DETR-R50 as the paper's repository trains it, for 50 epochs in batches of 16: published box AP 42.2.

detrex-lite train projects/dab_detr/configs/dab_detr_r50_paper_50ep.py --num-gpus 8

Differences from dab_detr_r50_50ep.py:

- the model is models/dab_detr_r50_paper.py
- batches mix landscape and portrait images
"""

from .dab_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.dab_detr_r50_paper import model

model.backbone.weights = "IMAGENET1K_V1"
dataloader.train.aspect_ratio_grouping = False
train.output_dir = "output/dab_detr_r50_paper_50ep"
