"""Deformable DETR R50 with box refinement, 50 epochs.

detrex-lite train projects/deformable_detr/configs/deformable_detr_r50_refine_50ep.py --num-gpus 8

detrex's model with the paper's schedule; see deformable_detr_r50_50ep.py.
"""

from .deformable_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.with_box_refine = True
train.output_dir = "output/deformable_detr_r50_refine_50ep"
