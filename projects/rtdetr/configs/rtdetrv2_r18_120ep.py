"""RT-DETRv2 R18 for 120 epochs, as its authors train it: published box AP 48.1.

detrex-lite train projects/rtdetr/configs/rtdetrv2_r18_120ep.py --num-gpus 4
"""

from .models.rtdetrv2_r18 import model
from .rtdetrv2_r50_72ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "ResNet18_vd_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage
dataloader.strong_epochs = [0, 117]
lr_multiplier.warmup_length = 2000 / (120 * 7393)
dataloader.train.multi_scale = None
optimizer.params.lr_factors = None
train.max_epochs = 120
train.output_dir = "output/rtdetrv2_r18_120ep"
