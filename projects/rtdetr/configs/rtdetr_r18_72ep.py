"""RT-DETR R18 for 72 epochs, as its authors train it: published box AP 46.5.

detrex-lite train projects/rtdetr/configs/rtdetr_r18_72ep.py --num-gpus 4
"""

from .models.rtdetr_r18 import model
from .rtdetr_r50_72ep import dataloader, lr_multiplier, optimizer, train

model.backbone.weights = "ResNet18_vd_pretrained_from_paddle.pth"  # https://github.com/lyuwenyu/storage
train.output_dir = "output/rtdetr_r18_72ep"
