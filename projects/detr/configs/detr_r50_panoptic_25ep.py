"""Masks on top of detr_r50_panoptic_boxes_300ep.py, whose weights are frozen: published PQ 43.4.

detrex-lite train projects/detr/configs/detr_r50_panoptic_25ep.py --num-gpus 8 \\
    train.init_checkpoint=output/detr_r50_panoptic_boxes_300ep/model_final.pth

As the paper's repository trains it: 25 epochs in batches of 16; learning rate x 0.1 after epoch 15.
"""

from .detr_r50_panoptic_boxes_300ep import dataloader, lr_multiplier, optimizer, train
from .models.detr_r50_panoptic import model

model.freeze_detector = True
lr_multiplier.epochs = 25
lr_multiplier.milestones = [15]
train.best_metric = "panoptic_seg/PQ"
train.init_new_parts = ["mask_head"]
train.max_epochs = 25
train.output_dir = "output/detr_r50_panoptic_25ep"
