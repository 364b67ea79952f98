"""RT-DETRv2 R34 with discrete sampling, 12 epochs from the trained detector: published box AP 49.2.

detrex-lite train projects/rtdetr/configs/rtdetrv2_r34_discrete_12ep.py --num-gpus 4
"""

from .models.rtdetrv2_r34_discrete import model
from .rtdetrv2_r34_120ep import dataloader, lr_multiplier, optimizer, train

dataloader.strong_epochs = [0, 10]
lr_multiplier.warmup_length = 2000 / (12 * 7393)
train.init_checkpoint = "rtdetrv2_r34vd_120e_coco_ema.pth"  # https://github.com/lyuwenyu/storage
train.max_epochs = 12
train.output_dir = "output/rtdetrv2_r34_discrete_12ep"
