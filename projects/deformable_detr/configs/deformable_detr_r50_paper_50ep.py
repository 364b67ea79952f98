"""Deformable DETR R50 as the paper's repository trains it, for 50 epochs in batches of 32: published box AP 44.5.

python tools/train_net.py --config-file projects/deformable_detr/configs/deformable_detr_r50_paper_50ep.py --num-gpus 8

What differs from deformable_detr_r50_50ep.py:

- the model is models/deformable_detr_r50_paper.py
- batches mix wide and high images

With two stages, `optimizer.params.lr_factors` must leave out the reference points, which there are none of then.
"""

from .deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.deformable_detr_r50_paper import model

model.backbone.weights = "IMAGENET1K_V1"
dataloader.train.aspect_ratio_grouping = False
train.output_dir = "output/deformable_detr_r50_paper_50ep"
