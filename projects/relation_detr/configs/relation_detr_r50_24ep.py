"""Relation-DETR R50 for 24 epochs; learning rate x 0.1 after epoch 20.

detrex-lite train projects/relation_detr/configs/relation_detr_r50_24ep.py --num-gpus 8
"""

from detrex_lite.config import get_config

from .relation_detr_r50_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_24ep
train.max_epochs = 24
train.output_dir = "output/relation_detr_r50_24ep"
