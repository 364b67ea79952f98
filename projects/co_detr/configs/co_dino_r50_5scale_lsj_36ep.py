"""Co-DINO R50 with five feature levels for 36 epochs with large scale jittering: published box AP 54.8, where objects
were also pasted from other images.

detrex-lite train projects/co_detr/configs/co_dino_r50_5scale_lsj_36ep.py --num-gpus 8
"""

from detrex_lite.config import get_config

from .co_dino_r50_5scale_lsj_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep
train.max_epochs = 36
train.output_dir = "output/co_dino_r50_5scale_lsj_36ep"
