"""Align-DETR R50 with four feature levels for 36 epochs; learning rate x 0.1 after epoch 30.

detrex-lite train projects/align_detr/configs/align_detr_r50_4scale_36ep.py --num-gpus 8
"""

from detrex_lite.config import get_config

from .align_detr_r50_4scale_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep
train.max_epochs = 36
train.output_dir = "output/align_detr_r50_4scale_36ep"
