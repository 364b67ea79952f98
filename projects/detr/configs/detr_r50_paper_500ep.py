"""DETR-R50 as the paper's repository trains it, for 500 epochs with the drop after 400: published box AP 42.0.

detrex-lite train projects/detr/configs/detr_r50_paper_500ep.py --num-gpus 8

Differences from detr_r50_500ep.py:

- the model is models/detr_r50_paper.py
- batches mix landscape and portrait images
"""

from .detr_r50_500ep import dataloader, lr_multiplier, optimizer, train
from .models.detr_r50_paper import model

model.backbone.weights = "IMAGENET1K_V1"
dataloader.train.aspect_ratio_grouping = False
train.output_dir = "output/detr_r50_paper_500ep"
