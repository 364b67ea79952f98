"""RT-DETRv2 R50-m for 84 epochs, as its authors train it: published box AP 51.9.

detrex-lite train projects/rtdetr/configs/rtdetrv2_r50_m_84ep.py --num-gpus 4
"""

from .models.rtdetrv2_r50_m import model
from .rtdetrv2_r50_72ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "ResNet50_vd_ssld_v2_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage
dataloader.strong_epochs = [0, 81]
lr_multiplier.warmup_length = 2000 / (84 * 7393)
train.max_epochs = 84
train.output_dir = "output/rtdetrv2_r50_m_84ep"
