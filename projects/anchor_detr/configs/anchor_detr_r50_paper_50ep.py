"""Anchor DETR DC5-R50 as the paper's repository trains it, for 50 epochs in batches of 8: published box AP 44.3.

detrex-lite train projects/anchor_detr/configs/anchor_detr_r50_paper_50ep.py --num-gpus 8

Differences from anchor_detr_r50_dc5_50ep.py:

- the model is models/anchor_detr_r50_paper.py
- batches have 8 images, and mix landscape and portrait images
"""

from .anchor_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.anchor_detr_r50_paper import model

model.backbone.weights = "IMAGENET1K_V1"
dataloader.train.total_batch_size = 8
dataloader.train.aspect_ratio_grouping = False
train.output_dir = "output/anchor_detr_r50_paper_50ep"
