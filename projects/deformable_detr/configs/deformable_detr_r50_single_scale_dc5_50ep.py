"""Deformable DETR R50 with one feature level of a dilated backbone, 50 epochs.

detrex-lite train projects/deformable_detr/configs/deformable_detr_r50_single_scale_dc5_50ep.py

detrex's model with the paper's schedule; see deformable_detr_r50_50ep.py.
"""

from .deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
from .models.deformable_detr_r50_single_scale_dc5 import model

model.backbone.weights = "IMAGENET1K_V1"
model.criterion.weights.loss_class = 2.0
train.output_dir = "output/deformable_detr_r50_single_scale_dc5_50ep"
