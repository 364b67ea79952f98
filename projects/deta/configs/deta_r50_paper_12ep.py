"""DETA R50 as the paper's repository trains it, for 12 epochs in batches of 16: published box AP 50.1.

detrex-lite train projects/deta/configs/deta_r50_paper_12ep.py --num-gpus 8

Differences from deta_r50_12ep.py:

- the model is models/deta_r50_paper.py
- batches mix landscape and portrait images
"""

from .deta_r50_12ep import dataloader, lr_multiplier, optimizer, train
from .models.deta_r50_paper import model

model.backbone.weights = "IMAGENET1K_V1"
dataloader.train.aspect_ratio_grouping = False
train.output_dir = "output/deta_r50_paper_12ep"
