"""Deformable DETR R50 in two stages, with box refinement, 50 epochs.

detrex-lite train projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py

detrex's model with the paper's schedule; see deformable_detr_r50_50ep.py.
"""

from .deformable_detr_r50_refine_50ep import dataloader, lr_multiplier, model, optimizer, train

model.as_two_stage = True
optimizer.params.lr_factors = {r"\.sampling_offsets\.": 0.1}  # there are no learned reference points
train.output_dir = "output/deformable_detr_r50_two_stage_50ep"
