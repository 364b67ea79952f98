"""Deformable DETR R50 as the paper's repository trains it, for 50 epochs in batches of 32: published box AP 44.5.

detrex-lite train projects/deformable_detr/configs/deformable_detr_r50_paper_50ep.py --num-gpus 8

Differences from deformable_detr_r50_50ep.py:

- the model is models/deformable_detr_r50_paper.py
- batches mix landscape and portrait images

With two stages, remove the reference points from `optimizer.params.lr_factors`, because the model does not have any.
"""

from .deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.deformable_detr_r50_paper import model

model.backbone.weights = "IMAGENET1K_V1"
dataloader.train.aspect_ratio_grouping = False
train.output_dir = "output/deformable_detr_r50_paper_50ep"
