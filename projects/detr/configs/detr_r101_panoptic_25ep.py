"""Masks on top of detr_r101_panoptic_boxes_300ep.py, whose weights are frozen: published PQ 45.1.

detrex-lite train projects/detr/configs/detr_r101_panoptic_25ep.py --num-gpus 8 \\
    train.init_checkpoint=output/detr_r101_panoptic_boxes_300ep/model_final.pth

Otherwise the same as detr_r50_panoptic_25ep.py.
"""

from .detr_r50_panoptic_25ep import dataloader, lr_multiplier, optimizer, train
from .models.detr_r101_panoptic import model

model.freeze_detector = True
train.output_dir = "output/detr_r101_panoptic_25ep"
