"""RT-DETRv2 R101 for 72 epochs, as its authors train it: published box AP 54.3.

detrex-lite train projects/rtdetr/configs/rtdetrv2_r101_72ep.py --num-gpus 4
"""

from .models.rtdetrv2_r101 import model
from .rtdetrv2_r50_72ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "ResNet101_vd_ssld_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage
dataloader.strong_epochs = [0, 71]
lr_multiplier.warmup_length = 2000 / (72 * 7393)
optimizer.params.lr_factors = {r"^backbone\.": 0.01}
train.max_epochs = 72
train.output_dir = "output/rtdetrv2_r101_72ep"
