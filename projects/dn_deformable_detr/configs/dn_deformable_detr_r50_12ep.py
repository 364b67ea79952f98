"""DN-Deformable-DETR R50 for 12 epochs; learning rate x 0.1 after epoch 11.

detrex-lite train projects/dn_deformable_detr/configs/dn_deformable_detr_r50_12ep.py --num-gpus 8

As detrex trains it; see dn_deformable_detr_r50_50ep.py.
"""

from detrex_lite.config import get_config

from .dn_deformable_detr_r50_50ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep
train.max_epochs = 12
train.output_dir = "output/dn_deformable_detr_r50_12ep"
