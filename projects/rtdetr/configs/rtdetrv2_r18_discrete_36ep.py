"""RT-DETRv2 R18 with discrete sampling, 36 epochs from the trained detector: published box AP 47.4.

detrex-lite train projects/rtdetr/configs/rtdetrv2_r18_discrete_36ep.py --num-gpus 4
"""

from .models.rtdetrv2_r18_discrete import model
from .rtdetrv2_r18_120ep import dataloader, lr_multiplier, optimizer, train

dataloader.strong_epochs = [0, 33]
lr_multiplier.warmup_length = 2000 / (36 * 7393)
train.init_checkpoint = "rtdetrv2_r18vd_120e_coco.pth"  # https://github.com/lyuwenyu/storage
train.max_epochs = 36
train.output_dir = "output/rtdetrv2_r18_discrete_36ep"
