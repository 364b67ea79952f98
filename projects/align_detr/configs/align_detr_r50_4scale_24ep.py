"""Align-DETR R50 with four feature levels for 24 epochs; learning rate x 0.1 after epoch 20.

detrex-lite train projects/align_detr/configs/align_detr_r50_4scale_24ep.py --num-gpus 8
"""

from detrex_lite.config import get_config

from .align_detr_r50_4scale_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_24ep
train.max_epochs = 24
train.output_dir = "output/align_detr_r50_4scale_24ep"
