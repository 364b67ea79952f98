"""Boxes of things and stuff by DETR-R101, for 300 epochs of COCO panoptic.

detrex-lite train projects/detr/configs/detr_r101_panoptic_boxes_300ep.py --num-gpus 8

Otherwise the same as detr_r50_panoptic_boxes_300ep.py.
"""

from .detr_r50_panoptic_boxes_300ep import dataloader, lr_multiplier, optimizer, train
from .models.detr_r101_paper import model

model.num_classes = 133
model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/detr_r101_panoptic_boxes_300ep"
