"""DINO R50 with four feature levels as the paper's repository trains it, for 12 epochs: published box AP 49.0.

detrex-lite train projects/dino/configs/dino_r50_4scale_paper_12ep.py --num-gpus 8

Differences from dino_r50_4scale_12ep.py:

- the model is models/dino_r50_paper.py
- batches mix landscape and portrait images
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
from .models.dino_r50_paper import model

model.backbone.weights = "IMAGENET1K_V1"
dataloader.train.aspect_ratio_grouping = False
train.output_dir = "output/dino_r50_4scale_paper_12ep"
