"""Group DETR R50 as the paper describes it, with attention within groups, for 50 epochs of COCO.

detrex-lite train projects/group_detr/configs/group_detr_r50_paper_50ep.py --num-gpus 8
"""

from .group_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.group_detr_r50_paper import model

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/group_detr_r50_paper_50ep"
