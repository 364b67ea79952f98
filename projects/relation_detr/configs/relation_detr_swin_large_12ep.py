"""Relation-DETR Swin-L for 12 epochs, from ImageNet-22k.

detrex-lite train projects/relation_detr/configs/relation_detr_swin_large_12ep.py --num-gpus 8
"""

from .models.relation_detr_swin_large import model
from .relation_detr_r50_12ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "ms_in22k"
train.output_dir = "output/relation_detr_swin_large_12ep"
