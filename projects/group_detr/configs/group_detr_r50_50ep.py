"""Group DETR R50 as detrex trains it, with attention among groups: like Conditional DETR, for 50 epochs of COCO.

detrex-lite train projects/group_detr/configs/group_detr_r50_50ep.py --num-gpus 8
"""

from detrex_lite.config import get_config

from .models.group_detr_r50 import model

_conditional = get_config("projects/conditional_detr/configs/conditional_detr_r50_50ep.py")
dataloader, optimizer = _conditional.dataloader, _conditional.optimizer
lr_multiplier, train = _conditional.lr_multiplier, _conditional.train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/group_detr_r50_50ep"
