"""H-Deformable DETR R50 for 36 epochs; learning rate x 0.1 after epoch 30.

detrex-lite train projects/h_deformable_detr/configs/h_deformable_detr_r50_two_stage_36ep.py --num-gpus 8

As detrex trains it; see h_deformable_detr_r50_two_stage_12ep.py.
"""

from detrex_lite.config import get_config

from .h_deformable_detr_r50_two_stage_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep
train.max_epochs = 36
train.output_dir = "output/h_deformable_detr_r50_two_stage_36ep"
