"""RT-DETR R34 for 72 epochs, as its authors train it: published box AP 48.9.

detrex-lite train projects/rtdetr/configs/rtdetr_r34_72ep.py --num-gpus 4
"""

from .models.rtdetr_r34 import model
from .rtdetr_r50_72ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "ResNet34_vd_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage
train.output_dir = "output/rtdetr_r34_72ep"
