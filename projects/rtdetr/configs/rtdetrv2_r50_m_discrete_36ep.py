"""RT-DETRv2 R50-m with discrete sampling, 36 epochs from the trained detector: published box AP 51.4.

detrex-lite train projects/rtdetr/configs/rtdetrv2_r50_m_discrete_36ep.py --num-gpus 4
"""

from .models.rtdetrv2_r50_m_discrete import model
from .rtdetrv2_r50_m_84ep import dataloader, lr_multiplier, optimizer, train

dataloader.strong_epochs = [0, 33]
dataloader.train.multi_scale.epochs = None  # to the end, as published
lr_multiplier.warmup_length = 2000 / (36 * 7393)
train.init_checkpoint = "rtdetrv2_r50vd_m_7x_coco_ema.pth"  # https://github.com/lyuwenyu/storage
train.max_epochs = 36
train.output_dir = "output/rtdetrv2_r50_m_discrete_36ep"
