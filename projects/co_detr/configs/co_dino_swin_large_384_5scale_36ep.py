"""Co-DINO Swin-L with five feature levels for 36 epochs, from ImageNet-22k: published box AP 60.0.

detrex-lite train projects/co_detr/configs/co_dino_swin_large_384_5scale_36ep.py --num-gpus 16

The drop path rate of the backbone is higher than for 12 epochs.
"""

from detrex_lite.config import get_config

from .co_dino_swin_large_384_5scale_12ep import dataloader, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_36ep
model.backbone.drop_path_rate = 0.6
train.max_epochs = 36
train.output_dir = "output/co_dino_swin_large_384_5scale_36ep"
