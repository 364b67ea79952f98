"""DAB-Deformable-DETR R50 in two stages, 50 epochs.

detrex-lite train projects/dab_deformable_detr/configs/dab_deformable_detr_r50_two_stage_50ep.py --num-gpus 8

As detrex trains it; see dab_deformable_detr_r50_50ep.py.
"""

from .dab_deformable_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.as_two_stage = True
train.output_dir = "output/dab_deformable_detr_r50_two_stage_50ep"
